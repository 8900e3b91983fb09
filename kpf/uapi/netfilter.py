"""What all of netfilter has in common.

linux/netfilter.h, linux/netfilter_ipv4.h, linux/netfilter/nf_conntrack_common.h, linux/netfilter/nf_nat.h of Linux 6.1.
"""

from enum import IntEnum


class NF(IntEnum):
    """Verdicts; nftables has more (NFT)."""

    DROP = 0
    ACCEPT = 1


class NFPROTO(IntEnum):
    """Families of chains, sets and tuples."""

    INET = 1
    IPV4 = 2
    IPV6 = 10


class NF_INET(IntEnum):
    """enum nf_inet_hooks."""

    PRE_ROUTING = 0
    LOCAL_IN = 1
    LOCAL_OUT = 3
    POST_ROUTING = 4


class NF_IP_PRI(IntEnum):
    """enum nf_ip_hook_priorities."""

    NAT_DST = -100


class IP_CT(IntEnum):
    """enum ip_conntrack_info: where in its connection a packet is."""

    NEW = 2
    IS_REPLY = 3


def nf_ct_state_bit(info: IP_CT) -> int:
    """NF_CT_STATE_BIT: `ct state` as nftables has it."""
    return 1 << info % IP_CT.IS_REPLY + 1


class IPS(IntEnum):
    """enum ip_conntrack_status: bits of an entry."""

    SEEN_REPLY = 1 << 1
    CONFIRMED = 1 << 3
    DST_NAT = 1 << 5


class NF_NAT_RANGE(IntEnum):
    """What of a range is given."""

    PROTO_SPECIFIED = 1 << 1
