"""linux/netfilter/nf_tables.h of Linux 6.1: the expressions that rules are made of, and what each has."""

from enum import IntEnum


class NFT_REG(IntEnum):
    """enum nft_registers, as wide as an IPv6 address."""

    VERDICT = 0


class NFT_REG32(IntEnum):
    """enum nft_registers, of four bytes: sixteen in a row."""

    _00 = 8


class NFTA_IMMEDIATE(IntEnum):
    """enum nft_immediate_attributes."""

    DREG = 1
    DATA = 2


class NFTA_BITWISE(IntEnum):
    """enum nft_bitwise_attributes."""

    SREG = 1
    DREG = 2
    LEN = 3
    MASK = 4
    XOR = 5


class NFTA_CMP(IntEnum):
    """enum nft_cmp_attributes."""

    SREG = 1
    OP = 2
    DATA = 3


class NFT_CMP(IntEnum):
    """enum nft_cmp_ops."""

    EQ = 0
    NEQ = 1
    GTE = 5


class NFTA_LOOKUP(IntEnum):
    """enum nft_lookup_attributes."""

    SET = 1
    SREG = 2
    DREG = 3
    SET_ID = 4


class NFTA_DYNSET(IntEnum):
    """enum nft_dynset_attributes. TIMEOUT: in ms."""

    SET_NAME = 1
    OP = 3
    SREG_KEY = 4
    TIMEOUT = 6


class NFT_DYNSET_OP(IntEnum):
    """enum nft_dynset_ops."""

    UPDATE = 1


class NFTA_PAYLOAD(IntEnum):
    """enum nft_payload_attributes."""

    DREG = 1
    BASE = 2
    OFFSET = 3
    LEN = 4


class NFT_PAYLOAD(IntEnum):
    """enum nft_payload_bases."""

    NETWORK_HEADER = 1
    TRANSPORT_HEADER = 2


class NFTA_META(IntEnum):
    """enum nft_meta_attributes."""

    DREG = 1
    KEY = 2
    SREG = 3


class NFT_META(IntEnum):
    """enum nft_meta_keys."""

    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    SKUID = 10
    NFPROTO = 15
    L4PROTO = 16
    IIFKIND = 26
    OIFKIND = 27


class NFTA_CT(IntEnum):
    """enum nft_ct_attributes."""

    DREG = 1
    KEY = 2


class NFT_CT(IntEnum):
    """enum nft_ct_keys."""

    STATE = 0
    STATUS = 2


class NFTA_SOCKET(IntEnum):
    """enum nft_socket_attributes."""

    KEY = 1
    DREG = 2


class NFT_SOCKET(IntEnum):
    """enum nft_socket_keys."""

    TRANSPARENT = 0


class NFTA_FIB(IntEnum):
    """enum nft_fib_attributes."""

    DREG = 1
    RESULT = 2
    FLAGS = 3


class NFT_FIB_RESULT(IntEnum):
    """enum nft_fib_result."""

    ADDRTYPE = 3


class NFTA_FIB_F(IntEnum):
    """enum nft_fib_flags."""

    SADDR = 1 << 0
    DADDR = 1 << 1


class NFTA_NG(IntEnum):
    """enum nft_ng_attributes."""

    DREG = 1
    MODULUS = 2
    TYPE = 3
    OFFSET = 4


class NFT_NG(IntEnum):
    """enum nft_ng_types."""

    INCREMENTAL = 0


class NFTA_NAT(IntEnum):
    """enum nft_nat_attributes."""

    TYPE = 1
    FAMILY = 2
    REG_ADDR_MIN = 3
    REG_PROTO_MIN = 5
    FLAGS = 7


class NFT_NAT(IntEnum):
    """enum nft_nat_types."""

    DNAT = 1


class NFTA_REJECT(IntEnum):
    """enum nft_reject_attributes."""

    TYPE = 1
    ICMP_CODE = 2


class NFT_REJECT(IntEnum):
    """enum nft_reject_types."""

    TCP_RST = 1
    ICMPX_UNREACH = 2


class NFT_REJECT_ICMPX(IntEnum):
    """enum nft_reject_inet_code."""

    PORT_UNREACH = 1
