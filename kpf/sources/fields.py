"""Reads fields that several kinds of objects have: addresses, networks, times. Pure.

Each function reads one, and adds to `field_errors` what is wrong with it. Wording follows Kubernetes 1.36.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from kpf.model.names import IPAddress, IPNetwork
from kpf.model.parsing import cidr_of, ip_of, strict_cidr, strict_ip
from kpf.sources.messages import shown
from kpf.sources.parts import FieldError, Place

_Value = TypeVar("_Value", IPAddress, IPNetwork)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d{1,9})?([Zz]|[-+]\d\d:\d\d)\Z", re.ASCII)


def ip_at(place: Place, text: str, field_errors: list[FieldError]) -> IPAddress | None:
    """The address that is written there, None if it is none."""
    return _read(place, text, field_errors, strict_ip, ip_of)


def cidr_at(place: Place, text: str, field_errors: list[FieldError]) -> IPNetwork | None:
    """The network that is written there, None if it is none."""
    return _read(place, text, field_errors, strict_cidr, cidr_of)


def _read(
    place: Place,
    text: str,
    field_errors: list[FieldError],
    strict: Callable[[str], _Value],
    sloppy: Callable[[str], _Value],
) -> _Value | None:
    try:
        return strict(text)
    except ValueError as refusal:
        try:
            value = sloppy(text)
        except ValueError as error:
            field_errors.append(FieldError(place, f"{error}, not {shown(text)}"))
            return None
        field_errors.append(FieldError(place, f"{refusal}, not {shown(text)}: it is read as {value}", is_rule=True))
        return value


def cidrs_at(place: Place, texts: Sequence[str], field_errors: list[FieldError]) -> tuple[IPNetwork, ...]:
    """Those of a list that are networks."""
    read = [cidr_at((*place, index), text, field_errors) for index, text in enumerate(texts)]
    return tuple(one for one in read if one is not None)


def timestamp(text: str) -> str | None:
    """A time in UTC, to the second, so that it sorts as text; "" stays, None if it is none."""
    if not text:
        return ""
    match = _TIMESTAMP.match(text)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3].upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0")
