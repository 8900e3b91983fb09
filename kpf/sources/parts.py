"""What a mistake in the form of an object costs: the smallest part that can be spared. Pure.

What an API server holds has been judged by it, and it may be older or newer than kpf. So an unknown value costs what it
concerns and no more: the field, which has its default then, the port, the address, the endpoint. A wrong type, or a
field that is missing, is no matter of age: it makes the object malformed, unless it is in a part that others go on
without.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from kpf.sources.messages import message_of

Place = tuple[int | str, ...]

# "*": any element of a list, any key of labels and annotations
_SPARED = frozenset(
    {
        "metadata.annotations.*",
        "metadata.creationTimestamp",
        "metadata.labels.*",
        "endpoints.*",
        "endpoints.*.hints",
        "endpoints.*.targetRef",
        "spec.cidrs.*",
        "spec.externalIPs.*",
        "spec.podCIDR",
        "spec.podCIDRs.*",
        "spec.taints.*",
        "status.addresses.*",
        "status.loadBalancer.ingress.*",
    }
)
# those that are spared only for the sake of a value, of the right type
_SPARED_FOR_VALUES = _SPARED | {
    "ports.*",
    "spec.externalTrafficPolicy",
    "spec.healthCheckNodePort",
    "spec.internalTrafficPolicy",
    "spec.ports.*",
    "spec.ports.*.nodePort",
    "spec.sessionAffinity",
    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
}
_WITH_ANY_KEY = ("annotations", "labels")


class FieldError(NamedTuple):
    """`is_rule`: the API server would refuse it, but nothing has to be left out for it."""

    place: Place
    message: str
    is_rule: bool = False


class MalformedError(Exception):
    """The object cannot be used at all. `field_errors`: why."""

    def __init__(self, field_errors: list[FieldError]) -> None:
        super().__init__(field_errors)
        self.field_errors = field_errors


LeftOut = dict[int | str, "LeftOut | None"]
"""Parts of an object by their keys and indices; None: this one is left out."""


class Form(NamedTuple):
    """An object as its type has it, without the parts that are left out for the sake of `field_errors`."""

    object: Any
    field_errors: list[FieldError]
    left_out: LeftOut

    def original(self, place: Place) -> Place:
        """Where in the object as it was written this is."""
        found: list[int | str] = []
        left_out: LeftOut | None = self.left_out
        for part in place:
            if isinstance(part, int) and left_out:
                gone = [index for index, inner in left_out.items() if inner is None and isinstance(index, int)]
                for index in sorted(gone):
                    part += index <= part
            found.append(part)
            left_out = left_out.get(part) if left_out else None
        return tuple(found)

    def lacks_some_of(self, place: Place) -> bool:
        """Whether something within this field, which is in no list, is left out."""
        left_out: LeftOut | None = self.left_out
        for part in place:
            if not left_out or part not in left_out or isinstance(part, int):
                return False
            left_out = left_out[part]
        return True


def form_of(shape: TypeAdapter[Any], raw: Mapping[str, Any]) -> Form:
    """Raises MalformedError if there is a mistake in a part that cannot be spared."""
    try:
        return Form(shape.validate_python(raw), [], {})
    except ValidationError as error:
        found = error.errors(include_url=False)
    field_errors = [FieldError(one["loc"], message_of(one)) for one in found]
    left_out: LeftOut = {}
    for one in found:
        place = _spared(one["loc"], is_value=not _is_of_type(one["type"]))
        if place is None:
            raise MalformedError(field_errors)
        _leave_out(left_out, place)
    try:
        return Form(shape.validate_python(_without(raw, left_out)), field_errors, left_out)
    except ValidationError:
        raise MalformedError(field_errors) from None


def _is_of_type(error: str) -> bool:
    return error == "missing" or error.endswith("_type")


def _spared(place: Place, *, is_value: bool) -> Place | None:
    """The innermost part around the place that can be left out."""
    spared = _SPARED_FOR_VALUES if is_value else _SPARED
    for length in range(len(place), 0, -1):
        if _pattern(place[:length]) in spared:
            return place[:length]
    return None


def _pattern(place: Place) -> str:
    outer = ("", *place)
    return ".".join(
        "*" if isinstance(part, int) or above in _WITH_ANY_KEY else part
        for above, part in zip(outer, place, strict=False)
    )


def _leave_out(left_out: LeftOut, place: Place) -> None:
    *above, last = place
    for part in above:
        inner = left_out.setdefault(part, {})
        if inner is None:
            return
        left_out = inner
    left_out[last] = None


def _without(value: Any, left_out: LeftOut) -> Any:
    """A copy. A field that is left out is null, which stands for one that is not given."""
    if isinstance(value, dict):
        return value | {key: inner and _without(value[key], inner) for key, inner in left_out.items()}
    return [
        inner if index not in left_out else _without(inner, left_out[index] or {})
        for index, inner in enumerate(value)
        if index not in left_out or left_out[index] is not None
    ]
