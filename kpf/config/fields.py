"""What the texts and numbers of the configuration mean: one function a field, from what was written to a value.

Each raises ValueError with a message that names what is wrong with the value, and none does more.
"""

import os
import re
from ipaddress import ip_address, ip_network
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from kpf.model.names import IPAddress, IPNetwork, SocketAddress

MAX_WORKERS = 64
MAX_SERIES = 1_000_000
MAX_DRAIN_TIMEOUT_S = 86_400.0
MAX_HANDOVER_TIMEOUT_S = 7 * 86_400.0
MAX_USER = (1 << 32) - 2

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?\Z")
_UNIX_PATH_LIMIT = 107  # sockaddr_un holds 108 bytes with the final NUL: unix(7)
# by what comes from elsewhere, whatever is rewritten
_NOT_REACHED = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "fe80::/10", "ff00::/8"),
    )
)
_INTERFACE_NAME = re.compile(r"[^\s/]{1,15}\Z")


class PortRange(NamedTuple):
    """Ports `first`..`last`, both included."""

    first: int
    last: int

    @property
    def ports(self) -> range:
        """For `in` and for counting; nothing is listed."""
        return range(self.first, self.last + 1)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def shown(value: object) -> str:
    """A value for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}")
    return value


def _parts(value: object) -> list[str]:
    """The elements of a list, which may be written as one text with commas."""
    listed = value if isinstance(value, list) else [part for part in _text(value).split(",") if part.strip()]
    return [_text(one).strip() for one in listed]


def _address(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None
    if address.version == 6 and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"{shown(text)} must be a plain IP address, without a zone and not IPv4-mapped")
    return address


def _network(text: str) -> IPNetwork:
    address, slash, length = text.partition("/")
    # ip_network would take a bare address and a netmask too
    if not slash or not length.isdecimal():
        raise ValueError(f"{shown(text)} is not a CIDR, such as 10.0.0.0/8")
    try:
        return ip_network((str(_address(address)), int(length)), strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a CIDR, such as 10.0.0.0/8") from None


def _one_each(values: tuple[Any, ...]) -> None:
    if len({value.version for value in values}) != len(values):
        raise ValueError("at most one of each IP family may be given")


def bind_address(value: object) -> tuple[IPAddress, ...]:
    """At most one address a family, neither multicast nor broadcast. Raises ValueError."""
    addresses = tuple(_address(part) for part in _parts(value))
    _one_each(addresses)
    for address in addresses:
        if address.is_multicast or address == ip_address("255.255.255.255"):
            raise ValueError(f"nothing can listen on {address}")
    return addresses


def proxy_address(value: object) -> tuple[IPAddress, ...]:
    """At most one address a family, of those that pods and other hosts can reach. Raises ValueError."""
    addresses = tuple(_address(part) for part in _parts(value))
    _one_each(addresses)
    for address in addresses:
        if any(address in network for network in _NOT_REACHED):
            raise ValueError(f"{address} is no address that pods and other hosts can reach")
    return addresses


def cluster_cidr(value: object) -> tuple[IPNetwork, ...]:
    """At most one network a family; bits of the host are cut. Raises ValueError."""
    networks = tuple(_network(part) for part in _parts(value))
    _one_each(networks)
    return networks


def service_cidrs(value: object) -> tuple[IPNetwork, ...]:
    """Any number of networks, of at least one bit each; bits of the host are cut. Raises ValueError."""
    networks = tuple(_network(part) for part in _parts(value))
    for network in networks:
        if network.prefixlen == 0:
            raise ValueError(f"{network} has every address: all that this node forwards would be dropped")
    return networks


def node_port_addresses(value: object) -> tuple[IPNetwork, ...] | Literal["primary"]:
    """Any number of networks, or "primary" by itself. Raises ValueError."""
    parts = _parts(value)
    if "primary" not in parts:
        return tuple(_network(part) for part in parts)
    if len(parts) > 1:
        raise ValueError("'primary' must be given alone")
    return "primary"


def port_range(value: object) -> PortRange:
    """From "A-B", 1024 <= A <= B <= 65535. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", _text(value).strip())
    if match is None:
        raise ValueError(f"must be two ports, such as 20000-29999, not {shown(value)}")
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise ValueError(f"must be A-B with 1024 <= A <= B <= 65535, not {shown(value)}")
    return PortRange(first, last)


def listen_address(value: object) -> SocketAddress | None:
    """From "IP:PORT", IPv6 in brackets, port 1..65535; "" is None, off. Raises ValueError."""
    text = _text(value).strip()
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"must be IP:PORT, IPv6 in brackets, port 1..65535, or empty; not {shown(text)}")
    address = _address(match[1] or match[2])
    if bool(match[1]) != (address.version == 6):
        raise ValueError(f"IPv6, and only that, must be in brackets, unlike {shown(text)}")
    return SocketAddress(address, int(match[3]))


def drain_seconds(value: object) -> float:
    """As `seconds`, a day at most. Raises ValueError."""
    return seconds(value, MAX_DRAIN_TIMEOUT_S)


def handover_seconds(value: object) -> float:
    """As `seconds`, a week at most. Raises ValueError."""
    return seconds(value, MAX_HANDOVER_TIMEOUT_S)


def seconds(value: object, limit_s: float) -> float:
    """A number, its text, or hours, minutes and seconds ("1h2m3.5s"), 0..`limit_s` s. Raises ValueError."""
    seconds: float = -1
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        seconds = float(value)
    elif isinstance(value, str) and value and (match := _DURATION.match(value)):
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not 0 <= seconds <= limit_s:
        example = f"0..{limit_s:.0f} seconds, or a duration such as 1m30s"
        raise ValueError(f"must be {example}; not {shown(value)}")
    return float(seconds)


def workers(value: object) -> int:
    """1..64; no text, no bool. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f"must be an integer 1..{MAX_WORKERS}, not {shown(value)}")
    return value


def max_series(value: object) -> int:
    """An integer, 0..1000000; no text, no bool. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SERIES:
        raise ValueError(f"must be an integer 0..{MAX_SERIES}, not {shown(value)}")
    return value


def user(value: object) -> int:
    """A uid, 1..2^32 - 2: never root. Raises ValueError."""
    # 2^32 - 1 is no id: setresuid(2)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_USER:
        raise ValueError(f"must be a numeric id 1..{MAX_USER}, and nobody else's; not {shown(value)}")
    return value


def url(value: object) -> str:
    """http or https with a host, and no port 0; "": none is given. Raises ValueError."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if text and not valid:
        raise ValueError(f"must be a URL such as https://10.0.0.1:6443, not {shown(text)}")
    return text


def socket_path(value: object) -> str:
    """1..107 bytes in the file system's encoding, none of them 0. Raises ValueError."""
    path = _text(value)
    if not fits_a_socket(path):
        raise ValueError(f"must be a path of 1..{_UNIX_PATH_LIMIT} bytes, not {shown(path)}")
    return path


def fits_a_socket(path: str) -> bool:
    """Whether a Unix socket can have this path."""
    return 1 <= len(os.fsencode(path)) <= _UNIX_PATH_LIMIT and "\0" not in path


def host_name(value: object) -> str:
    """In lower case, 1..253 characters; "": the host's own. Raises ValueError."""
    # lower case and without spaces, as Kubernetes names nodes: k8s.io/component-helpers/node/util.GetHostname
    name = _text(value).strip().lower()
    if name and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
        raise ValueError(f"must be a node's name, not {shown(value)}")
    return name


def interface(value: object) -> str:
    """1..15 bytes without spaces and slashes (IFNAMSIZ is 16); "": none. Raises ValueError."""
    name = _text(value)
    if name and not (_INTERFACE_NAME.match(name) and len(name.encode()) < 16):
        raise ValueError(f"must be an interface's name (or its beginning), at most 15 bytes, not {shown(name)}")
    return name


def lower(value: object) -> object:
    """Text in lower case; all else as it is, for the type's own validation to refuse."""
    return value.lower() if isinstance(value, str) else value
