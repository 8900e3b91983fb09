"""What the API server's answers say, as far as it can be believed. Pure.

Pages of lists, lines of watches, and `v1 Status` objects where it does not do as it was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from kpf.sources.messages import short

# apimachinery/pkg/apis/meta/v1, InitialEventsAnnotationKey
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class ListPage(NamedTuple):
    """`version`: of the whole list. `token`: where the next page begins, "" for the last one."""

    items: Sequence[Any]
    version: str
    token: str


class WatchEvent(NamedTuple):
    """`version` is empty for an ERROR, and where the object has none; `ends_list`: all there was has been told."""

    kind: str
    raw: Any
    version: str
    ends_list: bool


def page_of(body: bytes) -> ListPage | None:
    """None for what is no list: to take it for an empty one would be to lose everything."""
    page = _parsed(body)
    kind, metadata, items = page.get("kind"), page.get("metadata"), page.get("items", "")
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(metadata, dict):
        return None
    version, token = metadata.get("resourceVersion"), metadata.get("continue") or ""
    if not isinstance(version, str) or not version or not isinstance(token, str):
        return None
    return ListPage(items or (), version, token) if isinstance(items, list) or items is None else None


def event_of(line: bytes) -> WatchEvent | None:
    """None for what is no event: no JSON object, no `type`, or an object without metadata."""
    event = _parsed(line)
    kind, raw = event.get("type"), event.get("object")
    if kind == "ERROR":
        return WatchEvent(kind, raw, "", False)
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or not isinstance(metadata, dict):
        return None
    version, annotations = metadata.get("resourceVersion"), metadata.get("annotations")
    ends_list = kind == "BOOKMARK" and isinstance(annotations, dict) and annotations.get(INITIAL_EVENTS_END) == "true"
    return WatchEvent(kind, raw, version if isinstance(version, str) else "", ends_list)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code` as in HTTP; `retry_after_s` 0 if the server does not say."""

    code: int
    message: str
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.code} {self.message}".strip()


def from_answer(code: int, body: bytes, retry_after_s: float) -> Refusal:
    """`body` should be a Status, and may be anything."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Refusal(code, short(body.decode("utf-8", "replace")), retry_after_s)
    told = from_status(status)
    return Refusal(code, told.message, retry_after_s or told.retry_after_s)


def from_status(status: Any) -> Refusal:
    """From the object of an ERROR event; never raises."""
    if not isinstance(status, dict):
        return Refusal(500, "an error that is no Status")
    code, message = status.get("code"), status.get("message") or status.get("reason") or ""
    details = status.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else 0
    return Refusal(
        code if isinstance(code, int) and not isinstance(code, bool) else 500,
        short(message) if isinstance(message, str) else "",
        float(seconds) if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds > 0 else 0.0,
    )


class Lines:
    """Cuts a stream into lines. A line longer than `limit_bytes` is passed over and counted in `too_long`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends; empty ones are none."""
        first, *others = data.split(b"\n")
        self._hold(first)
        if not others:
            return []
        *middle, last = others
        lines = [self._complete(), *middle]
        self._hold(last)
        return [line for line in lines if line and self._is_short(line)]

    def _hold(self, part: bytes) -> None:
        if self._skipping or not part:
            return
        self._parts.append(part)
        self._held_bytes += len(part)
        if self._held_bytes > self._limit_bytes:
            self._skipping = True
            self.too_long += 1
            self._parts.clear()

    def _complete(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._held_bytes, self._skipping = 0, False
        return line

    def _is_short(self, line: bytes) -> bool:
        if len(line) <= self._limit_bytes:
            return True
        self.too_long += 1
        return False
