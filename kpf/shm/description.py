"""What a memory says of itself in its header: where each area is, and each field of its records. Pure.

So any version reads the memory of any other, later ones too, by names, as plain values. A name keeps its meaning for
ever; what means something else gets another name. JSON of `{area: [start, stride, count, {field: [index, shift,
width]}]}`: words, and bits within them; a field of more than 64 bits is so many words. Of counters there is a row of
records for each worker, as long as there are places of what is counted. A field that a version does not have is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson

from kpf.shm import layout
from kpf.shm.layout import HEADER_WORDS, WORD, Layout, Reason

DESCRIPTION_LIMIT = (HEADER_WORDS - layout.DESCRIPTION_AT - 1) * WORD
# of what others say: a later version may say more
FOREIGN_LIMIT = 1 << 16
MAX_STRIDE = 1 << 20


class DescriptionError(Exception):
    """This is no description, or it leads out of the memory."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where in a record: the word, and if it is not whole words, the bits in it. `width`: in bits."""

    index: int
    shift: int = 0
    width: int = 64


@dataclass(frozen=True, slots=True)
class Area:
    """`count` records of `stride` words each."""

    start: int
    stride: int
    count: int
    fields: Mapping[str, Field]


Description = Mapping[str, Area]


def _buckets(name: str, first: int, bounds_ms: Sequence[int]) -> dict[str, Field]:
    """Those of a histogram: what took so many milliseconds at least, and less than so many; the last: or more."""
    ends = [*map(str, bounds_ms), ""]
    return {f"{name} {start}-{end}": Field(first + at) for at, (start, end) in enumerate(pairwise(["0", *ends]))}


_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "header": {
        "workers used": Field(layout.WORKERS_USED_AT),
        "frontends used": Field(layout.FRONTENDS_USED_AT),
        "members used": Field(layout.MEMBERS_USED_AT),
    },
    "workers": {
        "heartbeat": Field(layout.HEARTBEAT),
        "active": Field(layout.ACTIVE),
        "total": Field(layout.TOTAL),
        "pauses": Field(layout.PAUSES),
        "generation": Field(layout.GENERATION),
    },
    "frontends": {
        "cursor": Field(layout.LIST, 0, layout.COUNT_SHIFT),
        "count": Field(layout.LIST, layout.COUNT_SHIFT, layout.OFFSET_SHIFT - layout.COUNT_SHIFT),
        "offset": Field(layout.LIST, layout.OFFSET_SHIFT, layout.OFFSET_MASK.bit_length()),
        "anchored": Field(layout.LIST, layout.ANCHORED.bit_length() - 1, 1),
        "anchor": Field(layout.ANCHOR, width=128),
        "anchor port": Field(layout.ANCHOR_PORT),
        "timeout": Field(layout.TIMEOUT),
        "table": Field(layout.AFFINITY_TABLE),
        "entries": Field(layout.AFFINITY_ENTRIES),
        "evictions": Field(layout.EVICTIONS),
        "may loop": Field(layout.MAY_LOOP),
        "state": Field(layout.STATE),
    },
    "labels": {
        "length": Field(layout.LABEL_LENGTH),
        "bytes": Field(layout.LABEL_BYTES, width=layout.LABEL_LIMIT * 8),
    },
    "arena": {"member": Field(0)},
    "members": {
        "identity": Field(layout.IDENTITY),
        "address": Field(layout.ADDRESS, width=128),
        "port": Field(layout.PORT),
        "ejected until": Field(layout.HEALTH, layout.UNTIL_SHIFT, 64 - layout.UNTIL_SHIFT),
        "probing": Field(layout.HEALTH, layout.PROBING.bit_length() - 1, 1),
        "ejected for": Field(layout.HEALTH, 0, layout.FOR_MASK.bit_length()),
        "connect time": Field(layout.CONNECT_TIME),
    },
    "frontend counters": {
        "total": Field(layout.F_TOTAL),
        "ended": Field(layout.F_ENDED),
        "bytes in": Field(layout.F_BYTES_IN),
        "bytes out": Field(layout.F_BYTES_OUT),
        "retries": Field(layout.F_RETRIES),
        "hits": Field(layout.F_HITS),
        **{f"failed {reason.name}": Field(layout.F_FAILED + reason) for reason in Reason},
        "dials ms": Field(layout.F_DIALS_MS),
        **_buckets("dials", layout.F_DIALS, layout.DIAL_BOUNDS_MS),
        "lasted ms": Field(layout.F_LASTED_MS),
        **_buckets("lasted", layout.F_LASTED, layout.DURATION_BOUNDS_MS),
    },
    "member counters": {
        "total": Field(layout.M_TOTAL),
        "active": Field(layout.M_ACTIVE),
        **{f"failed {reason.name}": Field(layout.M_FAILURES + reason) for reason in layout.MEMBER_REASONS},
    },
    "affinity tables": {},
    # of which the tables are full
    "affinity entries": {
        "client high": Field(layout.ENTRY_CLIENT),
        "client low": Field(layout.ENTRY_CLIENT + 1),
        "identity": Field(layout.ENTRY_IDENTITY),
        "stamp": Field(layout.ENTRY_STAMP),
    },
}


# without these, nothing can be read
_NEEDED = {
    "header": {"workers used", "frontends used", "members used"},
    "frontends": {"cursor", "count", "offset", "anchored", "anchor", "anchor port", "state"},
    "labels": {"length", "bytes"},
    "arena": {"member"},
    "members": {"identity", "address", "port"},
    "affinity entries": {"client high", "client low", "identity", "stamp"},
}


def own() -> Description:
    """Of the memory that this version makes."""
    where = Layout()
    places = {
        "header": (0, HEADER_WORDS, 1),
        "workers": (where.worker_records, layout.WORKER_WORDS, layout.WORKER_SLOTS),
        "frontends": (where.frontends, layout.FRONTEND_WORDS, layout.FRONTEND_CAPACITY),
        "labels": (where.labels, layout.LABEL_WORDS, layout.FRONTEND_CAPACITY),
        "arena": (where.arena, 1, layout.ARENA_WORDS),
        "members": (where.members, layout.MEMBER_WORDS, layout.MEMBER_CAPACITY),
        "frontend counters": (
            where.frontend_counters,
            layout.FRONTEND_COUNTERS,
            layout.WORKER_SLOTS * layout.FRONTEND_CAPACITY,
        ),
        "member counters": (
            where.member_counters,
            layout.MEMBER_COUNTERS,
            layout.WORKER_SLOTS * layout.MEMBER_CAPACITY,
        ),
        "affinity tables": (where.affinity_tables, layout.AFFINITY_TABLE_WORDS, layout.AFFINITY_TABLES),
        "affinity entries": (where.affinity_tables, layout.ENTRY_WORDS, 1),
    }
    return {name: Area(*place, _FIELDS[name]) for name, place in places.items()}


def text_of(description: Description) -> bytes:
    """As it stands in the header."""
    return orjson.dumps(
        {
            name: [area.start, area.stride, area.count, {field: _place(at) for field, at in area.fields.items()}]
            for name, area in description.items()
        }
    )


def _place(field: Field) -> list[int]:
    return [field.index, field.shift, field.width]


def read(text: bytes, *, words: int) -> Description:
    """Of a memory that has so many words. Raises `DescriptionError`.

    All that nothing can be read without is there, and nothing leads out of its record or out of the memory.
    """
    try:
        said = orjson.loads(text)
        found = {name: _area(name, said[name], words) for name in _FIELDS}
    except (ValueError, KeyError, TypeError) as error:
        raise DescriptionError(f"what the memory says of itself is not understood: {error!r}") from error
    rows = found["workers"].count
    if found["frontend counters"].count < rows * found["frontends"].count:
        raise DescriptionError("there are not as many counters as frontends and workers")
    if found["member counters"].count < rows * found["members"].count:
        raise DescriptionError("there are not as many counters as members and workers")
    if found["labels"].count < found["frontends"].count:
        raise DescriptionError("there are not as many labels as frontends")
    return found


def _area(area: str, said: object, words: int) -> Area:
    if not isinstance(said, list):
        raise TypeError(f"{said!r} is no area")
    start, stride, count, fields = said
    if not 0 <= _int(start) <= words or not 0 < _int(stride) <= MAX_STRIDE or _int(count) < 0:
        raise ValueError(f"no area is at {start} by {stride}")
    if start + stride * count > words:
        raise ValueError(f"{count} times {stride} words at {start} lead out of the memory")
    found = {}
    for name, ours in _FIELDS[area].items():
        if name not in fields and name not in _NEEDED.get(area, ()):
            continue
        field = Field(*map(_int, fields[name]))
        if ours.width > 64:
            # an address is an address; there may be more room for a label
            fits = field.width % 64 == field.shift == 0 and (field.width == ours.width or name == "bytes")
        else:
            fits = field.width > 0 <= field.shift and field.shift + field.width <= 64
        if not fits or field.index < 0 or field.index + -(-field.width // 64) > stride:
            raise ValueError(f"no field is at {field} of {stride} words")
        found[name] = field
    return Area(start, stride, count, found)


def _int(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{number!r} is no number")
    return number
