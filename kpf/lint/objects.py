"""What is odd about one object by itself: its fields, its annotations, its kind."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from kpf.lint import schema
from kpf.plan.routes import ANNOTATIONS
from kpf.sources.decode import API_VERSIONS, Kind
from kpf.sources.messages import path_of, short, shown
from kpf.sources.parts import Place
from kpf.sources.services import OUR_ANNOTATIONS
from kpf.sources.slices import LABEL_HEADLESS, LABEL_SERVICE_NAME
from kpf.suggestions import did_you_mean, nearest

# how alike a name must be, 0 to 1, where most other names are somebody else's and right
ALIKE = 0.8
MAX_LABELS = 100

_TOP = "the object itself"
_GROUPS = {version.rpartition("/")[0] for version in API_VERSIONS.values()}


class Oddity(NamedTuple):
    """`known`: what could have been meant; what `word` is most like is named, where one is alike."""

    place: Place
    message: str
    word: str = ""
    known: Sequence[str] = ()

    def __str__(self) -> str:
        return self.message + did_you_mean(self.word, self.known)


def odd_fields(raw: Mapping[str, Any], kind: Kind) -> Iterator[Oddity]:
    """Fields that the API's type does not have, at any depth. Maps have the keys that people give them."""
    yield from _odd_fields(raw, schema.type_of(kind), (), kind)


def _odd_fields(raw: Mapping[str, Any], type_name: str, above: Place, kind: Kind) -> Iterator[Oddity]:
    known = schema.fields_of(type_name)
    for name, value in raw.items():
        place = (*above, name)
        if name not in known:
            yield _odd_field(place, kind, known)
        elif inner := known[name]:
            listed = enumerate(value) if isinstance(value, list) else ()
            for index, one in listed:
                if isinstance(one, dict):
                    yield from _odd_fields(one, inner, (*place, index), kind)
            if isinstance(value, dict):
                yield from _odd_fields(value, inner, place, kind)


def _odd_field(place: Place, kind: Kind, known: Mapping[str, str]) -> Oddity:
    name = str(place[-1])
    home = schema.homes(kind).get(name)
    if home is not None:
        return Oddity(place, f"is a field of {home or _TOP}, not of {path_of(place[:-1]) or _TOP}")
    return Oddity(place, f"is no field of {kind}", name, tuple(known))


def odd_annotations(raw: Mapping[str, Any], kind: Kind) -> Iterator[Oddity]:
    """Annotations that are meant for kpf and tell it nothing."""
    for key in _map_at(raw, "annotations"):
        place = ("metadata", "annotations", key)
        if not key.startswith(OUR_ANNOTATIONS):
            continue
        if kind is not Kind.SERVICE:
            yield Oddity(place, f"means nothing on {kind}: kpf reads annotations of Services")
        elif key not in ANNOTATIONS:
            yield Oddity(place, "is no annotation of kpf", key, ANNOTATIONS)


def odd_labels(raw: Mapping[str, Any]) -> Iterator[Oddity]:
    """Of an EndpointSlice: that it does not say whose it is."""
    labels = _map_at(raw, "labels")
    if LABEL_SERVICE_NAME in labels or LABEL_HEADLESS in labels:
        return
    alike = nearest(LABEL_SERVICE_NAME, islice(labels, MAX_LABELS), ALIKE)
    if alike is not None:
        yield Oddity(("metadata", "labels", alike), f"says of no Service, did you mean {LABEL_SERVICE_NAME}?")
    else:
        yield Oddity(("metadata", "labels"), f"{LABEL_SERVICE_NAME} is missing: it belongs to no Service")


def _map_at(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object's annotations or labels; none if they are of a wrong type, which is a problem of its own."""
    metadata = raw.get("metadata")
    found = metadata.get(name) if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def odd_kind(api_version: str, kind: str) -> Oddity | None:
    """Of an object that is passed over: that it was probably meant to be read."""
    group = api_version.rpartition("/")[0]
    if (api_version, kind) == ("v1", "Endpoints"):
        return Oddity(("kind",), f"Endpoints are not read, EndpointSlices are ({API_VERSIONS[Kind.ENDPOINT_SLICE]})")
    if group in _GROUPS and kind.endswith("List") and kind.removesuffix("List") in API_VERSIONS:
        return Oddity(("kind",), f"{kind} is not read, a v1 List is, as `kubectl get -o yaml` writes it")
    if kind in API_VERSIONS:
        served = API_VERSIONS[Kind(kind)]
        is_somebody_elses = "." in group and nearest(api_version, [served], ALIKE) is None
        return (
            None
            if is_somebody_elses
            else Oddity(("apiVersion",), f"{kind} is of {served}, not of {short(api_version)}")
        )
    if group in _GROUPS and not schema.is_kind(kind):
        return Oddity(("kind",), f"{short(api_version)} has no kind {shown(kind)}", kind, tuple(API_VERSIONS))
    return None
