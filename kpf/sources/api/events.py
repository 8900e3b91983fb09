"""What the API server tells about one kind of object. Pure."""

from dataclasses import dataclass

from kpf.model.names import ObjectName
from kpf.sources.api.resources import Known


@dataclass(frozen=True, slots=True)
class Put:
    """The object is there, or has changed."""

    object: Known


@dataclass(frozen=True, slots=True)
class Drop:
    """The object is gone."""

    name: ObjectName


@dataclass(frozen=True, slots=True)
class Replace:
    """These are all objects there are."""

    objects: tuple[Known, ...]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that people should know of."""

    text: str


Event = Put | Drop | Replace | Remark
