"""Label and field selectors. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.apiserver.resources import Object, Resource
from tests.apiserver.status import ApiError

Requirement = Callable[[Object], bool]

_LABEL = re.compile(r"(?P<key>[\w./-]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[\w.-]*)")
_PRESENCE = re.compile(r"(?P<absent>!?)\s*(?P<key>[\w./-]+)")
_FIELD = re.compile(r"(?P<key>[^=!]+)(?P<operator>==|=|!=)(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class Selector:
    """All of the requirements."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, value: Object) -> bool:
        return all(holds(value) for holds in self.requirements)


def selector(resource: Resource, labels: str, fields: str) -> Selector:
    """Of a request's `labelSelector` and `fieldSelector`, "" for none. Raises `ApiError` (400).

    Labels by presence, absence, equality and inequality; sets (`in`, `notin`) are not known.
    """
    return Selector(
        (
            *(_label(part.strip()) for part in labels.split(",") if part.strip()),
            *(_field(resource, part.strip()) for part in fields.split(",") if part.strip()),
        )
    )


def _label(text: str) -> Requirement:
    if found := _LABEL.fullmatch(text):
        key, operator, wanted = found.group("key", "operator", "value")
        if operator == "!=":
            return lambda value: _labels(value).get(key) != wanted
        return lambda value: _labels(value).get(key) == wanted
    if found := _PRESENCE.fullmatch(text):
        key = found["key"]
        if found["absent"]:
            return lambda value: key not in _labels(value)
        return lambda value: key in _labels(value)
    raise ApiError(400, f"unable to parse requirement: {text}")


def _labels(value: Object) -> Mapping[str, object]:
    return value["metadata"].get("labels") or {}


def _field(resource: Resource, text: str) -> Requirement:
    found = _FIELD.fullmatch(text)
    if not found:
        raise ApiError(400, f"invalid selector: '{text}'; can't understand '{text}'")
    key, operator, wanted = found.group("key", "operator", "value")
    if key not in ("metadata.name", "metadata.namespace", *resource.fields):
        raise ApiError(400, resource.unknown_field(key))
    outer, inner = key.split(".")
    equal = operator != "!="
    return lambda value: (_text(value.get(outer), inner) == wanted) == equal


def _text(values: object, key: str) -> str:
    value = values.get(key) if isinstance(values, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
