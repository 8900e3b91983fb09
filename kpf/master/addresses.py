"""Endpoints as shared memory has them: 16 bytes, IPv4 mapped into IPv6, and the port."""

import socket
from ipaddress import IPv4Address, IPv6Address

from kpf.model.names import SocketAddress
from kpf.shm.layout import Address

_MAPPED = b"\0" * 10 + b"\xff\xff"


def shared_address(endpoint: SocketAddress) -> Address:
    """An IPv4 address becomes ::ffff:a.b.c.d; `shown` has it as it was."""
    packed = endpoint.address.packed
    return Address(packed if len(packed) == 16 else _MAPPED + packed, endpoint.port)


def shown(address: Address) -> str:
    """As a person reads it: "10.0.0.1:80", "[fd00::1]:80".

    An endpoint is never an IPv4-mapped IPv6 address (`kpf.plan.policy.reserved_kind`).
    """
    packed, port = address
    if packed.startswith(_MAPPED):
        return f"{socket.inet_ntoa(packed[len(_MAPPED) :])}:{port}"
    return f"[{IPv6Address(packed)}]:{port}"


def endpoint_of(address: Address) -> SocketAddress:
    """What `shared_address` was made of."""
    packed, port = address
    if packed.startswith(_MAPPED):
        return SocketAddress(IPv4Address(packed[len(_MAPPED) :]), port)
    return SocketAddress(IPv6Address(packed), port)
