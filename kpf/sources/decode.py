"""From a raw object (a YAML or JSON document) to a value of the model, and what is wrong with it.

Rules: nothing raises, whatever the object is; all that is wrong with the shape of one object is found in one go, with
field paths as the API server writes them. A mistake costs the part that it concerns (`parts`), and the object as a
whole only if that cannot be spared: then it is malformed. What an API server has taken is not judged again: of such an
object only that is a problem which has to be left out. Kinds that kpf has no use for are passed over. Pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import ObjectName
from kpf.model.service import Service
from kpf.model.snapshot import Node, Problem, ServiceCIDR
from kpf.sources import nodes, services, slices, wire
from kpf.sources.messages import path_of, shown
from kpf.sources.parts import FieldError, MalformedError, form_of

MAX_PROBLEMS = 20
DEFAULT_NAMESPACE = "default"

Value = Service | EndpointSlice | Node | ServiceCIDR


class Kind(StrEnum):
    """What kpf reads, each of one version (`API_VERSIONS`)."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    SERVICE_CIDR = "ServiceCIDR"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one object.

    `value` has all of it that can be used; it is None for one that does not count (a slice without a Service, say), and
    for one that is `malformed`: of that nothing can be used, so the version before it stays. `name` is None where even
    that is wrong.
    """

    kind: Kind | None
    name: ObjectName | None
    value: Value | None = None
    problems: tuple[Problem, ...] = ()
    malformed: bool = False


_Making = Callable[[Any, ObjectName, str], tuple[Value | None, list[FieldError]]]
API_VERSIONS: Mapping[Kind, str] = {
    Kind.SERVICE: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.NODE: "v1",
    Kind.SERVICE_CIDR: "networking.k8s.io/v1",
}
_DECODERS: Mapping[Kind, tuple[TypeAdapter[Any], _Making]] = {
    Kind.SERVICE: (wire.SERVICE, services.service),
    Kind.ENDPOINT_SLICE: (wire.ENDPOINT_SLICE, slices.endpoint_slice),
    Kind.NODE: (wire.NODE, nodes.node),
    Kind.SERVICE_CIDR: (wire.SERVICE_CIDR, nodes.service_cidr),
}
_CLUSTER_WIDE = frozenset({Kind.NODE, Kind.SERVICE_CIDR})
_KINDS: Mapping[tuple[str, str], Kind] = {(version, kind): kind for kind, version in API_VERSIONS.items()}
_GROUPS = {(api_version.rpartition("/")[0], kind) for api_version, kind in _KINDS} | {("", "List")}


def decode(raw: Any, origin: str) -> Iterator[Decoded]:
    """Decode one document; a `v1 List` gives each of its items. `origin` is the name of the file."""
    for one in flattened(raw):
        if _is_list(one):
            yield _refused(origin, "List", "items", f"must be a list, not {shown(one['items'])}")
        elif (decoded := _decode_one(one, origin)) is not None:
            yield decoded


def flattened(raw: Any) -> Iterator[Any]:
    """The objects of one document: itself, or those of a `v1 List`; one whose items are no list stays as it is."""
    waiting = [raw]
    while waiting:
        one = waiting.pop()
        items = (one.get("items") or []) if _is_list(one) else None
        if isinstance(items, list):
            waiting += reversed(items)
        else:
            yield one


def _is_list(raw: Any) -> bool:
    return isinstance(raw, dict) and (raw.get("apiVersion"), raw.get("kind")) == ("v1", "List")


def _refused(origin: str, described_as: str, field: str, message: str) -> Decoded:
    return Decoded(None, None, problems=(Problem(origin, described_as, field, message),), malformed=True)


def _decode_one(raw: Any, origin: str) -> Decoded | None:
    if not isinstance(raw, dict):
        return _refused(origin, "", "", f"is not an object: {shown(raw)}")
    api_version, kind_name = raw.get("apiVersion"), raw.get("kind")
    if not isinstance(kind_name, str) or not kind_name:
        return _refused(origin, described("", raw), "kind", _absent_or_no_text(kind_name))
    if not isinstance(api_version, str) or not api_version:
        told = described(kind_name if kind_name.isalnum() else "", raw)
        return _refused(origin, told, "apiVersion", _absent_or_no_text(api_version))
    kind = _KINDS.get((api_version, kind_name))
    if kind is not None:
        return _decode_known(raw, kind, origin)
    if (api_version.rpartition("/")[0], kind_name) in _GROUPS:
        message = f"{shown(api_version)} has no kind {kind_name} that is served"
        return _refused(origin, described(kind_name, raw), "apiVersion", message)
    return None


def _absent_or_no_text(value: object) -> str:
    return f"must be text, not {shown(value)}" if value else "is required"


def decode_as(kind: Kind, raw: Any) -> Decoded:
    """Decode what the API server calls an object of this kind: in its lists, objects do not say so themselves."""
    if not isinstance(raw, dict):
        return _refused("", kind, "", f"is not an object: {shown(raw)}")
    decoded = _decode_known(raw, kind, "", rules=False)
    if decoded.malformed or not decoded.problems:
        return decoded
    # the server has taken it: what is left out is beyond this version of kpf
    return replace(decoded, problems=tuple(one._replace(is_limit=True) for one in decoded.problems))


def _decode_known(raw: Mapping[str, Any], kind: Kind, origin: str, *, rules: bool = True) -> Decoded:
    shape, make = _DECODERS[kind]
    try:
        form = form_of(shape, raw)
        metadata = form.object["metadata"]
        namespace = "" if kind in _CLUSTER_WIDE else metadata.get("namespace") or DEFAULT_NAMESPACE
        name = ObjectName(namespace, metadata["name"])
        value, found = make(form.object, name, origin)
    except MalformedError as error:
        field_errors = [one for one in error.field_errors if rules or not one.is_rule]
        return Decoded(kind, _name_of(raw, kind), problems=_problems(raw, kind, origin, field_errors), malformed=True)
    if not form.field_errors and not found:
        return Decoded(kind, name, value)
    found = [one for one in found if not one.is_rule or (rules and not form.lacks_some_of(one.place))]
    told = [one._replace(place=form.original(one.place)) for one in found[:MAX_PROBLEMS]]
    problems = _problems(raw, kind, origin, [*form.field_errors, *told, *found[MAX_PROBLEMS:]])
    return Decoded(kind, name, value, problems)


def _problems(
    raw: Mapping[str, Any], kind: Kind, origin: str, field_errors: Sequence[FieldError]
) -> tuple[Problem, ...]:
    told = described(kind, raw)
    problems = [Problem(origin, told, path_of(one.place), one.message) for one in field_errors[:MAX_PROBLEMS]]
    if len(field_errors) > MAX_PROBLEMS:
        problems.append(Problem(origin, told, "", f"has {len(field_errors) - MAX_PROBLEMS} more problems"))
    return tuple(problems)


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


def described(kind: str, raw: Mapping[str, Any]) -> str:
    """An object for people: "Service default/web"; with a name that cannot be one, as it is written."""
    name = _name_of(raw, Kind(kind) if kind in _CLUSTER_WIDE else None)
    if name is not None:
        return f"{kind} {name}".strip()
    metadata = raw.get("metadata")
    written = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{kind} {shown(written)}".strip() if written else f"{kind} without a name".strip()
