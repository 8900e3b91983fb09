"""From a raw object (a YAML or JSON document) to a value of the model, or to what is wrong with it.

Rules: nothing raises, whatever the object is; all that is wrong with the shape of one object is found in one go, with
field paths as the API server writes them; an object that the API server would refuse is left out whole. Kinds that
kpf has no use for are passed over. Pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import ObjectName
from kpf.model.service import Service
from kpf.model.snapshot import Node, Problem, ServiceCIDR
from kpf.sources import objects, wire

MAX_PROBLEMS = 20
DEFAULT_NAMESPACE = "default"

Value = Service | EndpointSlice | Node | ServiceCIDR


class Kind(StrEnum):
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    SERVICE_CIDR = "ServiceCIDR"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one object.

    `value` is None for one with `problems`, and for one that does not count (a slice without a Service, say).
    `name` is None where even that is wrong.
    """

    kind: Kind | None
    name: ObjectName | None
    value: Value | None = None
    problems: tuple[Problem, ...] = ()


_Making = Callable[[Any, ObjectName, str], tuple[Value | None, list[objects.Mistake]]]
API_VERSIONS: Mapping[Kind, str] = {
    Kind.SERVICE: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.NODE: "v1",
    Kind.SERVICE_CIDR: "networking.k8s.io/v1",
}
_DECODERS: Mapping[Kind, tuple[TypeAdapter[Any], _Making]] = {
    Kind.SERVICE: (wire.SERVICE, objects.service),
    Kind.ENDPOINT_SLICE: (wire.ENDPOINT_SLICE, objects.endpoint_slice),
    Kind.NODE: (wire.NODE, objects.node),
    Kind.SERVICE_CIDR: (wire.SERVICE_CIDR, objects.service_cidr),
}
_CLUSTER_WIDE = frozenset({Kind.NODE, Kind.SERVICE_CIDR})
_KINDS: Mapping[tuple[str, str], Kind] = {(version, kind): kind for kind, version in API_VERSIONS.items()}
_GROUPS = {(api_version.rpartition("/")[0], kind) for api_version, kind in _KINDS} | {("", "List")}

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "string_pattern_mismatch": "must be a name: lower case letters, digits and '-'",
}


def decode(raw: Any, origin: str) -> Iterator[Decoded]:
    """Decode one document; a `v1 List` gives each of its items. `origin` is the name of the file, "" for the API."""
    waiting = [raw]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and (one.get("apiVersion"), one.get("kind")) == ("v1", "List"):
            items = one.get("items") or []
            if isinstance(items, list):
                waiting += reversed(items)
            else:
                yield _refused(origin, "List", "items", f"must be a list, not {shown(items)}")
        elif (decoded := _decode_one(one, origin)) is not None:
            yield decoded


def _refused(origin: str, described: str, field: str, message: str) -> Decoded:
    return Decoded(None, None, problems=(Problem(origin, described, field, message),))


def _decode_one(raw: Any, origin: str) -> Decoded | None:
    if not isinstance(raw, dict):
        return _refused(origin, "", "", f"is not an object: {shown(raw)}")
    api_version, kind_name = raw.get("apiVersion"), raw.get("kind")
    if not isinstance(kind_name, str) or not kind_name:
        return _refused(origin, _described("", raw), "kind", _absent_or_no_text(kind_name))
    if not isinstance(api_version, str) or not api_version:
        described = _described(kind_name if kind_name.isalnum() else "", raw)
        return _refused(origin, described, "apiVersion", _absent_or_no_text(api_version))
    kind = _KINDS.get((api_version, kind_name))
    if kind is not None:
        return _decode_known(raw, kind, origin)
    if (api_version.rpartition("/")[0], kind_name) in _GROUPS:
        message = f"{shown(api_version)} has no kind {kind_name} that is served"
        return _refused(origin, _described(kind_name, raw), "apiVersion", message)
    return None


def _absent_or_no_text(value: object) -> str:
    return f"must be text, not {shown(value)}" if value else "is required"


def decode_as(kind: Kind, raw: Any) -> Decoded:
    """Decode what the API server calls an object of this kind: in its lists, objects do not say so themselves."""
    if not isinstance(raw, dict):
        return _refused("", kind, "", f"is not an object: {shown(raw)}")
    return _decode_known(raw, kind, "")


def _decode_known(raw: Mapping[str, Any], kind: Kind, origin: str) -> Decoded:
    shape, make = _DECODERS[kind]
    try:
        valid = shape.validate_python(raw)
    except ValidationError as error:
        name = _name_of(raw, kind)
        mistakes = [(path_of(one["loc"]), message_of(one)) for one in error.errors(include_url=False)]
    else:
        metadata = valid["metadata"]
        namespace = "" if kind in _CLUSTER_WIDE else metadata.get("namespace") or DEFAULT_NAMESPACE
        name = ObjectName(namespace, metadata["name"])
        value, mistakes = make(valid, name, origin)
        if not mistakes:
            return Decoded(kind, name, value)
    described = _described(kind, raw)
    problems = [Problem(origin, described, field, message) for field, message in mistakes[:MAX_PROBLEMS]]
    if len(mistakes) > MAX_PROBLEMS:
        problems.append(Problem(origin, described, "", f"has {len(mistakes) - MAX_PROBLEMS} more problems"))
    return Decoded(kind, name, problems=tuple(problems))


def _name_of(raw: Mapping[str, Any], kind: Kind | None) -> ObjectName | None:
    """The name of an object that is malformed, if that part of it is right."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        return None
    name, namespace = metadata.get("name"), metadata.get("namespace") or DEFAULT_NAMESPACE
    if not isinstance(name, str) or not re.match(wire.DNS_SUBDOMAIN, name) or name.endswith("\n"):
        return None
    if kind in _CLUSTER_WIDE:
        return ObjectName("", name)
    if not isinstance(namespace, str) or not re.match(wire.DNS_LABEL, namespace) or namespace.endswith("\n"):
        return None
    return ObjectName(namespace, name)


def _described(kind: str, raw: Mapping[str, Any]) -> str:
    """An object for people: "Service default/web"; with a name that cannot be one, as it is written."""
    name = _name_of(raw, Kind(kind) if kind in _CLUSTER_WIDE else None)
    if name is not None:
        return f"{kind} {name}".strip()
    metadata = raw.get("metadata")
    written = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{kind} {shown(written)}".strip() if written else f"{kind} without a name".strip()


def path_of(place: tuple[int | str, ...]) -> str:
    """A field's path as the API server writes it: spec.ports[0].port, metadata.labels[example.com/a]."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isascii() and part.isalnum():
            path += f".{part}" if path else part
        else:
            path += f"[{part if part.isascii() and part.isprintable() and len(part) < 80 else shown(part)}]"
    return path


def message_of(error: Any) -> str:
    """What pydantic found wrong, in the words of this project. `error`: one of `ValidationError.errors()`."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "too_short":
        return f"must have at least {context['min_length']} element"
    if kind == "too_long":
        return f"must have at most {context['max_length']} elements, not {context['actual_length']}"
    if kind == "literal_error":
        expected = str(context["expected"]).removeprefix("'', ")
    elif kind == "value_error":
        expected = str(context["error"])
        return f"{expected}, not {shown(given)}"
    elif kind in ("greater_than_equal", "less_than_equal"):
        limit = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"must be {limit}, not {shown(given)}"
    else:
        return f"{_EXPECTED.get(kind, error['msg'])}, not {shown(given)}"
    return f"must be one of {expected}, not {shown(given)}"


def shown(value: object) -> str:
    """A value for a message: on one line, and short however large it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false"}.get(value, "null") if value is not None else "null"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."
