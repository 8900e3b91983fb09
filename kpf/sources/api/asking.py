"""Requests to list and to watch, in the API's words. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from kpf.sources.api.resources import Resource


class Ask(Enum):
    """What a request is for. PAGE: a part of a list, or all of it. WATCH: what happens from a version on."""

    STREAMED_LIST = auto()  # a watch that begins with all that there is
    PAGE = auto()
    WATCH = auto()
    PROBE = auto()  # has the server gone back in time?


class Page(NamedTuple):
    """`objects`: how many at most, 0 for all; `token`: where the page before it ended."""

    objects: int
    token: str


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of `path` with `query`."""

    ask: Ask
    path: str
    query: tuple[tuple[str, str], ...]


def request(resource: Resource, ask: Ask, *, version: str, fields: bool, watch_s: float, page: Page) -> Request:
    """`version`: where a watch goes on, for `watch_s`; `fields`: whether the server knows the field selector."""
    return Request(ask, resource.path, tuple(_query(resource, ask, version, fields, watch_s, page)))


def _query(
    resource: Resource, ask: Ask, version: str, fields: bool, watch_s: float, page: Page
) -> Iterator[tuple[str, str]]:
    if resource.label_selector:
        yield "labelSelector", resource.label_selector
    if fields:
        yield "fieldSelector", resource.field_selector
    if ask in (Ask.WATCH, Ask.STREAMED_LIST):
        yield "watch", "true"
        yield "allowWatchBookmarks", "true"
        yield "timeoutSeconds", str(int(watch_s))
    if ask is Ask.WATCH:
        yield "resourceVersion", version
    elif ask is Ask.STREAMED_LIST:
        yield "sendInitialEvents", "true"
        yield "resourceVersionMatch", "NotOlderThan"
    elif ask is Ask.PROBE:
        yield "limit", "1"
    else:
        if page.objects:
            yield "limit", str(page.objects)
        if page.token:
            yield "continue", page.token
