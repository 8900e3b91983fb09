"""The names that the API has for fields and kinds, of the version of Kubernetes that the client package is made for.

The package's models are generated of the API's own OpenAPI description.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from kubernetes.client import models

from kpf.sources.decode import Kind

_TYPES: Mapping[Kind, str] = {
    Kind.SERVICE: "V1Service",
    Kind.ENDPOINT_SLICE: "V1EndpointSlice",
    Kind.NODE: "V1Node",
    Kind.SERVICE_CIDR: "V1ServiceCIDR",
}
_LISTED = re.compile(r"[Ll]ist\[(\w+)\]\Z")
# before a kind's name: its version, and the group where two have the name
_PREFIX = re.compile(r"(?:[A-Z][a-z]+)?V\d+(?:(?:alpha|beta)\d+)?(?=[A-Z])")


def type_of(kind: Kind) -> str:
    """The package's name for the type of these objects."""
    return _TYPES[kind]


@cache
def fields_of(type_name: str) -> Mapping[str, str]:
    """The fields of one of the package's types, as objects have them, each with its own type or that of its elements.

    "": a plain value, or one whose keys are anybody's.
    """
    made = getattr(models, type_name)
    return {name: _inner(made.openapi_types[attribute])[0] for attribute, name in made.attribute_map.items()}


def _inner(declared: str) -> tuple[str, bool]:
    """The type that is declared, or that of the elements, and whether it is of elements."""
    listed = _LISTED.match(declared)
    name = listed[1] if listed else declared
    return (name if hasattr(getattr(models, name, None), "attribute_map") else ""), bool(listed)


@cache
def homes(kind: Kind) -> Mapping[str, str]:
    """Each field's name, and the first place in an object of this kind that has it: "spec.ports[]", "" for the top."""
    found: dict[str, str] = {}
    for name, place in _fields_below(_TYPES[kind], ""):
        found.setdefault(name, place)
    return found


def _fields_below(type_name: str, place: str) -> Iterator[tuple[str, str]]:
    made = getattr(models, type_name)
    for name in made.attribute_map.values():
        yield name, place
    for attribute, name in made.attribute_map.items():
        inner, is_listed = _inner(made.openapi_types[attribute])
        if inner:
            below = f"{place}.{name}" if place else name
            yield from _fields_below(inner, below + "[]" * is_listed)


def is_kind(name: str) -> bool:
    """Whether the API has objects of this kind, or lists of them, whatever their group."""
    needed = {"apiVersion", "kind", "metadata"}
    # loaded one by one: all of them take a second
    return any(needed <= set(getattr(models, one).attribute_map.values()) for one in _types().get(name, ()))


@cache
def _types() -> Mapping[str, list[str]]:
    """The package's types by their names without version and group."""
    found: dict[str, list[str]] = {}
    for one in filter(_PREFIX.match, dir(models)):
        found.setdefault(_PREFIX.sub("", one, count=1), []).append(one)
    return found
