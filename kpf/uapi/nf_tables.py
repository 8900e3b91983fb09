"""linux/netfilter/nf_tables.h of Linux 6.1: tables, chains, rules, sets, and what these have."""

from enum import IntEnum


class NFT_MSG(IntEnum):
    """enum nf_tables_msg_types: the low byte of a message's type."""

    NEWTABLE = 0
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWGEN = 15


class NFT(IntEnum):
    """enum nft_verdicts: those beside NF."""

    JUMP = -3
    GOTO = -4
    RETURN = -5


class NFTA_LIST(IntEnum):
    """enum nft_list_attributes."""

    ELEM = 1


class NFTA_TABLE(IntEnum):
    """enum nft_table_attributes. All that is of a table has its name in the first attribute, too."""

    NAME = 1


class NFTA_CHAIN(IntEnum):
    """enum nft_chain_attributes."""

    TABLE = 1
    NAME = 3
    HOOK = 4
    POLICY = 5
    TYPE = 7


class NFTA_HOOK(IntEnum):
    """enum nft_hook_attributes."""

    HOOKNUM = 1
    PRIORITY = 2


class NFTA_RULE(IntEnum):
    """enum nft_rule_attributes."""

    CHAIN = 2
    EXPRESSIONS = 4


class NFTA_SET(IntEnum):
    """enum nft_set_attributes."""

    NAME = 2
    FLAGS = 3
    KEY_TYPE = 4
    KEY_LEN = 5
    DATA_TYPE = 6
    DATA_LEN = 7
    ID = 10
    USERDATA = 13


class NFT_SET(IntEnum):
    """enum nft_set_flags. EVAL: packets add elements; nft writes `dynamic`."""

    ANONYMOUS = 0x1
    CONSTANT = 0x2
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    EVAL = 0x20


class NFTA_SET_ELEM_LIST(IntEnum):
    """enum nft_set_elem_list_attributes."""

    TABLE = 1
    SET = 2
    ELEMENTS = 3
    SET_ID = 4


class NFTA_SET_ELEM(IntEnum):
    """enum nft_set_elem_attributes."""

    KEY = 1
    DATA = 2
    FLAGS = 3
    EXPIRATION = 5


class NFT_SET_ELEM(IntEnum):
    """enum nft_set_elem_flags."""

    INTERVAL_END = 0x1


class NFTA_DATA(IntEnum):
    """enum nft_data_attributes."""

    VALUE = 1
    VERDICT = 2


class NFTA_VERDICT(IntEnum):
    """enum nft_verdict_attributes."""

    CODE = 1
    CHAIN = 2


class NFTA_EXPR(IntEnum):
    """enum nft_expr_attributes."""

    NAME = 1
    DATA = 2
