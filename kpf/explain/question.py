"""What `kpf explain` is asked: `ADDRESS[:PORT][/udp]`, `NAMESPACE/NAME[:PORTNAME]`, `:NODEPORT`; and a client."""

import re
from typing import NamedTuple

from kpf.model.names import IPAddress, ObjectName, Protocol, SocketAddress
from kpf.model.parsing import strict_ip

FORMS = "ADDRESS[:PORT], :NODEPORT (both with /udp or /sctp, if it is not TCP), or NAMESPACE/NAME[:PORTNAME]"
MAX_LENGTH = 512

_PROTOCOL = re.compile(r"(.*)/(tcp|udp|sctp)\Z", re.IGNORECASE | re.ASCII | re.DOTALL)
_NAMED = re.compile(
    r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)(?::([-a-z0-9]{1,63}))?\Z", re.ASCII
)
_NODE_PORT = re.compile(r":([0-9]+)\Z", re.ASCII)
# an IPv6 address is in brackets if a port follows
_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]+)\Z", re.ASCII)
_BRACKETED = re.compile(r"\[([^\[\]]*)\]\Z")


class At(NamedTuple):
    """A destination. `port` None: every port; `protocol` None: every one, given only where `port` is None too."""

    address: IPAddress
    port: int | None
    protocol: Protocol | None

    def __str__(self) -> str:
        place = str(self.address) if self.port is None else str(SocketAddress(self.address, self.port))
        return f"{place}/{self.protocol}" if self.protocol else place


class NodePortOf(NamedTuple):
    """A node port, at whatever address of this node."""

    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"node port {self.port}/{self.protocol}"


class Named(NamedTuple):
    """A Service, or one port of it; `port` is None for all."""

    service: ObjectName
    port: str | None

    def __str__(self) -> str:
        return f"Service {self.service}" + (f", port {self.port}" if self.port else "")


What = At | NodePortOf | Named


class BadQuestionError(ValueError):
    """Nothing that could be asked; the text says why, in one line."""


def what_of(text: str) -> What:
    """Raises `BadQuestionError`."""
    if len(text) > MAX_LENGTH:
        raise BadQuestionError(f"WHAT has more than {MAX_LENGTH} characters: expected {FORMS}")
    if match := _NAMED.match(text):
        return Named(ObjectName(match[1], match[2]), match[3])
    place, protocol = text, None
    if match := _PROTOCOL.match(text):
        place, protocol = match[1], Protocol(match[2].upper())
    if match := _NODE_PORT.match(place):
        return NodePortOf(_port(match[1], text), protocol or Protocol.TCP)
    if match := _WITH_PORT.match(place):
        host = match[2] if match[1] is None else match[1]
        return At(_address(host, text), _port(match[3], text), protocol or Protocol.TCP)
    match = _BRACKETED.match(place)
    return At(_address(match[1] if match else place, text), None, protocol)


def client_of(text: str) -> IPAddress:
    """An address alone. Raises `BadQuestionError`."""
    try:
        return strict_ip(text)
    except ValueError as error:
        raise BadQuestionError(f"--from {_shown(text)}: {error}") from None


def _address(host: str, text: str) -> IPAddress:
    try:
        return strict_ip(host)
    except ValueError:
        raise BadQuestionError(f"{_shown(text)} is none of {FORMS}") from None


def _port(digits: str, text: str) -> int:
    if len(digits) > 5 or digits.startswith("0") or not 1 <= int(digits) <= 65535:
        raise BadQuestionError(f"{_shown(text)}: a port is a number from 1 to 65535")
    return int(digits)


def _shown(text: str) -> str:
    cut = text if len(text) <= 80 else f"{text[:80]}..."
    return repr(cut)
