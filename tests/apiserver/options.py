"""What a list or a watch was asked for. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.apiserver.resources import Resource
from tests.apiserver.selectors import Selector, selector
from tests.apiserver.status import ApiError, Cause, invalid_options

NOT_OLDER, EXACT = "NotOlderThan", "Exact"
FORBIDDEN, UNSUPPORTED = "FieldValueForbidden", "FieldValueNotSupported"


@dataclass(frozen=True, slots=True)
class Options:
    """`version`: None if the request has none; `initial`: whether a watch begins with all that there is.

    `marked`: whether the end of that beginning is told by a bookmark (`sendInitialEvents`). `timeout_s`: 0 for none.
    """

    watch: bool
    selector: Selector
    version: int | None
    match: str
    limit: int
    token: str
    initial: bool
    marked: bool
    bookmarks: bool
    timeout_s: int


def options(resource: Resource, query: Mapping[str, str], *, streaming_list: bool) -> Options:
    """Raises `ApiError`: 400 for what cannot be read, 422 for what the API forbids."""
    watch, bookmarks = _flag(query, "watch"), _flag(query, "allowWatchBookmarks")
    match = query.get("resourceVersionMatch", "")
    version = _number(query, "resourceVersion") if query.get("resourceVersion") else None
    sent = _flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    problems = _watch_problems(match, sent, bookmarks, streaming_list) if watch else _list_problems(query, match, sent)
    if causes := list(problems):
        raise invalid_options(causes)
    return Options(
        watch=watch,
        selector=selector(resource, query.get("labelSelector", ""), query.get("fieldSelector", "")),
        version=version,
        match=match,
        limit=_number(query, "limit"),
        token=query.get("continue", ""),
        initial=sent if sent is not None else not version,
        marked=bool(sent),
        bookmarks=bookmarks,
        timeout_s=_number(query, "timeoutSeconds"),
    )


def _watch_problems(match: str, sent: bool | None, bookmarks: bool, streaming_list: bool) -> Iterator[Cause]:
    if sent is not None:
        if match != NOT_OLDER:
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            yield Cause(FORBIDDEN, text, "resourceVersionMatch")
        if not streaming_list:
            text = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            yield Cause(FORBIDDEN, text, "sendInitialEvents")
        # stricter than the real server, where the end of the list would never be told
        if sent and not bookmarks:
            yield Cause(FORBIDDEN, "Forbidden: sendInitialEvents requires allowWatchBookmarks", "sendInitialEvents")
    elif match:
        text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        yield Cause(FORBIDDEN, text, "resourceVersionMatch")


def _list_problems(query: Mapping[str, str], match: str, sent: bool | None) -> Iterator[Cause]:
    version = query.get("resourceVersion", "")
    if sent is not None:
        yield Cause(FORBIDDEN, "Forbidden: sendInitialEvents is forbidden for list", "sendInitialEvents")
    if not match:
        return
    if not version:
        text = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        yield Cause(FORBIDDEN, text, "resourceVersionMatch")
    if query.get("continue"):
        text = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        yield Cause(FORBIDDEN, text, "resourceVersionMatch")
    if match not in (NOT_OLDER, EXACT):
        text = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        yield Cause(UNSUPPORTED, text, "resourceVersionMatch")
    if match == EXACT and version == "0":
        text = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        yield Cause(FORBIDDEN, text, "resourceVersionMatch")


def _flag(query: Mapping[str, str], name: str) -> bool:
    return name in query and query[name].lower() not in ("0", "false")


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not (text.isascii() and text.isdigit()):
        raise ApiError(400, f'{name}: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)
