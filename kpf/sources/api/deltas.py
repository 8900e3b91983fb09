"""What changes of one kind of object, as the API server tells it: client-go's deltas, with objects decoded. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from kpf.model.names import ObjectName
from kpf.sources.decode import Decoded, Kind, decode_as


class ApiObject(NamedTuple):
    """An object of the API server: what it was decoded to, and what identifies this version of it."""

    decoded: Decoded
    uid: str
    version: str

    @property
    def name(self) -> ObjectName | None:
        """None where even that is malformed."""
        return self.decoded.name


def api_object(kind: Kind, raw: Any) -> ApiObject:
    """Decode one object; never raises, whatever it is."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    if isinstance(raw, dict) and isinstance(raw.get("metadata"), dict):
        metadata = raw["metadata"]
    uid, version = metadata.get("uid"), metadata.get("resourceVersion")
    return ApiObject(
        decode_as(kind, raw),
        uid if isinstance(uid, str) else "",
        version if isinstance(version, str) else "",
    )


@dataclass(frozen=True, slots=True)
class Updated:
    """The object is there, or has changed."""

    object: ApiObject


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object is gone."""

    name: ObjectName


@dataclass(frozen=True, slots=True)
class Replaced:
    """These are all objects there are."""

    objects: tuple[ApiObject, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """No change, but something that people should know of."""

    text: str


Delta = Updated | Deleted | Replaced | LogLine
