"""Types of keys and values, which nft numbers and the kernel keeps for it. Pure."""

from kpf.model.names import Family

# include/datatype.h of nftables 1.0; a concatenation shifts them by 6 bits
TYPE_INTEGER, TYPE_IP4, TYPE_IP6, TYPE_PROTOCOL, TYPE_PORT, TYPE_VERDICT = 4, 7, 8, 12, 13, 0xFFFFFF00
NAMES = {
    TYPE_IP4: "ipv4_addr",
    TYPE_IP6: "ipv6_addr",
    TYPE_PROTOCOL: "inet_proto",
    TYPE_PORT: "inet_service",
    TYPE_VERDICT: "verdict",
}
SIZES = {TYPE_IP4: 4, TYPE_IP6: 16, TYPE_PROTOCOL: 4, TYPE_PORT: 4}
"""In a concatenation, where each part fills whole registers."""

# alone
INTEGER_SIZE, PORT_SIZE, VERDICT_SIZE = 4, 2, 16

ADDRESS_TYPE = {Family.IPV4: TYPE_IP4, Family.IPV6: TYPE_IP6}


def concatenated(types: tuple[int, ...]) -> int:
    """The type of a key of several parts: 6 bits each, the last part lowest."""
    number = 0
    for one in types:
        number = number << 6 | one
    return number
