"""Endpoints as shared memory has them: 16 bytes, IPv4 mapped into IPv6, and the port."""

from ipaddress import IPv6Address

from kpf.model.names import IPAddress, SocketAddress
from kpf.shm.layout import Address

_MAPPED = b"\0" * 10 + b"\xff\xff"


def shared_address(endpoint: SocketAddress) -> Address:
    packed = endpoint.address.packed
    return Address(packed if len(packed) == 16 else _MAPPED + packed, endpoint.port)


def endpoint_of(address: Address) -> SocketAddress:
    """The other way round. An endpoint is never an IPv4-mapped IPv6 address (`kpf.plan.policy.reserved_kind`)."""
    whole = IPv6Address(address.packed)
    shown: IPAddress = whole.ipv4_mapped or whole
    return SocketAddress(shown, address.port)
