"""Addresses and networks from text, as Kubernetes' components read them.

kube-proxy reads with Go's `net.ParseIP` as it was before Go 1.17: a number may begin with zeros, and is decimal all the
same (k8s.io/utils/internal/third_party/forked/golang/net/ip.go, by way of `ParseIPSloppy` and `ParseCIDRSloppy`; since
"kubernetes users ... might have stored data which uses these leading zeroes already"). An API server from 1.36 on takes
what is new only as `strict_ip` has it, and keeps what older ones took.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from kpf.model.names import IPAddress, IPNetwork

_LEADING_ZEROS = re.compile(r"(?<![0-9A-Fa-f])0+(?=[0-9A-Fa-f])")
_LENGTH = re.compile(r"0*([0-9]{1,3})\Z", re.ASCII)
_MAPPED_BITS = 96


def strict_ip(text: str) -> IPAddress:
    """The address in one of its usual forms. Raises ValueError for others, a zone, and IPv4-mapped ones."""
    address = _parsed(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise ValueError("must not be an IPv4-mapped IPv6 address")
    return address


def ip_of(text: str) -> IPAddress:
    """The address as kube-proxy reads it: with leading zeros, and an IPv4-mapped one is IPv4. Raises ValueError."""
    address = _parsed(_LEADING_ZEROS.sub("", text))
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def strict_cidr(text: str) -> IPNetwork:
    """The network of an address that is `strict_ip`; bits of the host are cut. Raises ValueError."""
    address, length = _cut(text)
    try:
        return _network(strict_ip(address), length)
    except ValueError:
        raise _no_cidr() from None


def cidr_of(text: str) -> IPNetwork:
    """The network as kube-proxy reads it: an IPv4-mapped one is IPv4, bits of the host are cut. Raises ValueError."""
    address, length = _cut(text)
    try:
        network = _network(_parsed(_LEADING_ZEROS.sub("", address)), length)
    except ValueError:
        raise _no_cidr() from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    # a shorter one has more in it than IPv4
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def _parsed(text: str) -> IPAddress:
    try:
        if ":" not in text:
            return IPv4Address(text)
        address = IPv6Address(text)
    except ValueError:
        raise ValueError("must be an IP address") from None
    if address.scope_id:
        raise ValueError("must be an IP address without a zone")
    return address


def _cut(text: str) -> tuple[str, int]:
    address, _, length = text.partition("/")
    # ip_network would take a bare address and a netmask too
    match = _LENGTH.match(length)
    if match is None:
        raise _no_cidr()
    return address, int(match[1])


def _network(address: IPAddress, length: int) -> IPNetwork:
    network = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
    return network((address, length), strict=False)


def _no_cidr() -> ValueError:
    return ValueError("must be a CIDR, such as 10.0.0.0/8")
