"""Addresses as people write them: ip:port, [ip]:port."""

from ipaddress import ip_address

from perf.load.result import Address


def parse(text: str) -> Address:
    """Raises `ValueError` with a text for people; names are not looked up."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ip_address(bare)
    except ValueError:
        ip = None
    if ip is None or (ip.version == 6) != (bare != host) or not colon:
        raise ValueError(f"{text!r} is no ip:port or [ip]:port")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: the port is no number from 1 to 65535")
    return str(ip), int(port)


def show(address: Address) -> str:
    """The inverse of `parse`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
