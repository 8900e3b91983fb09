"""What the API server's answers say, as far as it can be believed: pages of lists, and lines of watches. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

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
