"""The conversation with an API server about one resource: bytes and time in, requests and deltas out. Pure.

Rules: what is known stays in force until something newer is known for certain, so nothing is ever said to be gone
because the server is; a list replaces what is known in one delta. A watch goes on where the last one ended, and the
server is asked for a list only at the start, when it has forgotten what came since (410) or does not understand where
we are, when it has gone back in time (restored from a backup), and when streams break at one place again and again.

How to use one: ask `next`; make the request and tell `begin`, then `feed` as bytes come, until it `hangs_up` or the
answer ends or is silent for `silence_s`; then tell `end`, and begin anew. Behaviour of the server as of
Kubernetes 1.36 (apiserver/pkg/endpoints/handlers/watch.go, apiserver/pkg/storage/cacher).
"""

import random
from collections.abc import Callable, Iterator

from kpf.model.names import ObjectName
from kpf.sources.api.answers import Lines, ListPage, Refusal, WatchEvent, event_of, from_answer, from_status, page_of
from kpf.sources.api.backoff import Backoff
from kpf.sources.api.deltas import ApiObject, Deleted, Delta, LogLine, Replaced, Updated, api_object
from kpf.sources.api.resources import Ask, Page, Request, Resource, request

# fewer than the 500 that are usual: what is decoded at one go holds up all else
PAGE_OBJECTS = 100
MAX_PAGE_BYTES = 64 << 20
# etcd takes no object above 1.5 MiB of protobuf
MAX_LINE_BYTES = 16 << 20
MAX_REFUSAL_BYTES = 64 << 10

WATCH_S = 300.0
# bookmarks come once a minute: apiserver/pkg/storage/cacher, bookmarkFrequency
WATCH_SILENCE_S = 100.0
# the server's own limit is 60 s: kube-apiserver --request-timeout
ANSWER_SILENCE_S = 65.0
# a watch that ends sooner was hardly one
SHORTEST_WATCH_S = 1.0
OPTIONAL_RETRY_S = 600.0
# a server that has just started forbids everything for some seconds: about a minute of them
REFUSALS_BEFORE_THAT = 6
# streams in a row that break off before anything is gained: then it is tried by a list, or by one in pages
MAX_BREAKS = 3

OK, BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, GONE = 200, 400, 401, 403, 404, 410
# what a server answers that does not know a parameter, or may not use it
NOT_UNDERSTOOD = frozenset({400, 405, 415, 422})


class Reflector:
    """`trouble`: why the server does not tell anything at the moment, "" if it does. `listed`: all was told once.

    `heard_s`: when it said something last, on the clock of `next`; `begun`: how many lists and watches there were.
    `unauthorized`: the credentials did not do, last time. `chance` gives numbers from 0 to 1.
    """

    def __init__(self, resource: Resource, *, chance: Callable[[], float] = random.random) -> None:
        self.resource = resource
        self.trouble, self.listed, self.unauthorized = "", False, False
        self.heard_s, self.begun = float("-inf"), 0
        self.hangs_up = False
        self._chance, self._backoff = chance, Backoff(chance)
        self._version, self._suspect = "", False
        self._by_pages, self._page_objects, self._continue = False, PAGE_OBJECTS, ""
        self._selects_fields = bool(resource.field_selector)
        self._collected: dict[ObjectName, ApiObject] | None = None
        self._absent, self._refusals = False, 0
        self._due_s = float("-inf")
        self._breaks = 0
        self._ask, self._status, self._retry_after_s, self._began_s = Ask.WATCH, 0, 0.0, 0.0
        self._heard, self._failed = False, False
        self._lines, self._body, self._body_bytes = Lines(MAX_LINE_BYTES), list[bytes](), 0

    @property
    def answered(self) -> bool:
        """Nothing is to be waited for: all was told once, or the server will not."""
        return self.listed or self._absent

    @property
    def silence_s(self) -> float:
        """How long the server may say nothing at this moment."""
        watching = self._ask is Ask.WATCH or (self._ask is Ask.STREAMED_LIST and self._collected is None)
        return WATCH_SILENCE_S if watching and self._status == OK else ANSWER_SILENCE_S

    # what to ask

    def next(self, now_s: float) -> Request | float:
        """What to ask now, or the time at which to ask again (s, on the clock of `now_s`)."""
        if now_s < self._due_s:
            return self._due_s
        if self._version:
            self._ask = Ask.PROBE if self._suspect else Ask.WATCH
        else:
            self._ask = Ask.PAGE if self._by_pages else Ask.STREAMED_LIST
        self.hangs_up, self.unauthorized = False, False
        self._heard, self._failed, self._status, self._retry_after_s = False, False, 0, 0.0
        self._began_s = now_s
        self.begun += self._ask is not Ask.PROBE
        self._lines, self._body, self._body_bytes = Lines(MAX_LINE_BYTES), [], 0
        if self._ask is Ask.STREAMED_LIST or (self._ask is Ask.PAGE and not self._continue):
            self._collected = {}
        return request(
            self.resource,
            self._ask,
            version=self._version,
            fields=self._selects_fields,
            watch_s=WATCH_S * (1 + self._chance()),
            page=Page(self._page_objects, self._continue),
        )

    # what is answered

    def begin(self, status: int, now_s: float, *, retry_after_s: float = 0.0) -> None:
        """The head of an answer: the status of HTTP, and Retry-After in seconds, 0 if it has none."""
        self._status, self._began_s, self._retry_after_s = status, now_s, retry_after_s
        if status == OK:
            self.trouble = ""

    def feed(self, data: bytes, now_s: float) -> list[Delta]:
        """A part of its body, cut anywhere; what it tells. `hangs_up`, if it is longer than any could be."""
        if self._status == OK:
            self.heard_s = now_s
            if self._ask in (Ask.WATCH, Ask.STREAMED_LIST):
                return list(self._read_lines(data, now_s))
        self._body.append(data)
        self._body_bytes += len(data)
        self.hangs_up = self._body_bytes > (MAX_PAGE_BYTES if self._status == OK else MAX_REFUSAL_BYTES)
        return []

    def end(self, now_s: float, error: str = "", *, silent: bool = False) -> list[Delta]:
        """The answer is over; `error`: why, if not as it should be; `silent`: it was given up for lack of any byte."""
        if self._failed:
            return []
        if self._status not in (0, OK):
            self._refused(from_answer(self._status, b"".join(self._body), self._retry_after_s), now_s)
            return []
        if self._ask in (Ask.WATCH, Ask.STREAMED_LIST):
            self._stream_ended(now_s, error, silent)
            return []
        if self._body_bytes > MAX_PAGE_BYTES:
            self._page_objects = max((self._page_objects or PAGE_OBJECTS) // 10, 1)
            error = f"an answer of more than {MAX_PAGE_BYTES >> 20} MiB"
        if error or not self._status:
            self._fail(error or "no answer", now_s)
            return []
        page = page_of(b"".join(self._body))
        if page is None:
            self._fail("a list that is none", now_s)
            return []
        return list(self._listed(page) if self._ask is Ask.PAGE else self._probed(page))

    def _fail(self, trouble: str, now_s: float, *, asked_s: float = 0.0) -> None:
        self.trouble = trouble
        self.hangs_up = self._failed = True
        self._due_s = now_s + self._backoff.delay_s(asked_s)

    def _list_again(self) -> None:
        self._version, self._suspect, self._continue, self._collected = "", False, "", None
        self._selects_fields = bool(self.resource.field_selector)

    def _refused(self, refusal: Refusal, now_s: float) -> None:
        listing, not_understood = not self._version, refusal.code in NOT_UNDERSTOOD
        if refusal.code == GONE:
            # a list that outlives its history again and again must be had in one piece
            self._page_objects = 0 if listing and self._continue else self._page_objects
            self._list_again()
        elif not_understood and (self._continue or not listing):
            # what this server said, or another one before it, means nothing to it
            self._list_again()
        elif not_understood and not self._by_pages:
            self._by_pages = True
            return
        elif refusal.code == BAD_REQUEST and self._selects_fields and self.resource.can_select_itself:
            self._selects_fields = False
            return
        elif refusal.code in (FORBIDDEN, NOT_FOUND) and self.resource.optional and not self.listed:
            self._absent, self._refusals = True, self._refusals + 1
            self._fail(str(refusal) if refusal.code == FORBIDDEN else "", now_s)
            if self._refusals > REFUSALS_BEFORE_THAT:
                self._due_s = now_s + OPTIONAL_RETRY_S
            return
        self.unauthorized = refusal.code == UNAUTHORIZED
        self._fail(str(refusal), now_s, asked_s=refusal.retry_after_s)

    # pages

    def _listed(self, page: ListPage) -> Iterator[Delta]:
        collected = self._collected = {} if self._collected is None else self._collected
        for raw in page.items:
            one = api_object(self.resource.kind, raw)
            if one.name is None:
                yield self._passed_over(one)
            else:
                collected[one.name] = one
        self._continue = page.token
        if not self._continue:
            yield self._complete(page.version)

    def _complete(self, version: str) -> Replaced:
        objects = tuple((self._collected or {}).values())
        self._collected, self._version, self.listed, self._absent = None, version, True, False
        self._page_objects, self._breaks, self._refusals = PAGE_OBJECTS, 0, 0
        self._backoff.reset()
        # the server may have learned to stream when it has to be asked for all the next time
        self._by_pages = False
        return Replaced(objects)

    def _probed(self, page: ListPage) -> Iterator[Delta]:
        self._suspect = False
        self._backoff.reset()
        ours, theirs = self._version, page.version
        if ours.isdecimal() and theirs.isdecimal() and int(theirs) < int(ours):
            yield LogLine(f"the API server has gone back in time, from version {ours} to {theirs}")
            self._list_again()

    # streams

    def _read_lines(self, data: bytes, now_s: float) -> Iterator[Delta]:
        too_long = self._lines.too_long
        lines = self._lines.feed(data)
        if self._lines.too_long > too_long:
            yield LogLine(f"an object of more than {MAX_LINE_BYTES >> 20} MiB is passed over")
        for line in lines:
            yield from self._read_line(line, now_s)
            if self.hangs_up:
                return

    def _read_line(self, line: bytes, now_s: float) -> Iterator[Delta]:
        event = event_of(line)
        if event is None:
            self._broke(Refusal(0, "a line that is no event"), now_s)
            return
        if event.kind == "ERROR":
            self._broke(from_status(event.raw), now_s)
            return
        self._heard = True
        if self._collected is None:
            # a part of a list would be nothing gained yet
            self._breaks, self._version = 0, event.version or self._version
            self._backoff.reset()
        if event.kind != "BOOKMARK":
            yield from self._changed(event)
        elif self._collected is not None and event.ends_list and event.version:
            yield self._complete(event.version)

    def _changed(self, event: WatchEvent) -> Iterator[Delta]:
        one, is_gone = api_object(self.resource.kind, event.raw), event.kind == "DELETED"
        if one.name is None:
            yield self._passed_over(one)
        elif event.kind not in ("ADDED", "MODIFIED", "DELETED"):
            yield LogLine(f"an event of unknown type {event.kind!r:.40} is passed over")
        elif self._collected is None:
            yield Deleted(one.name) if is_gone else Updated(one)
        elif is_gone:
            self._collected.pop(one.name, None)
        else:
            self._collected[one.name] = one

    def _passed_over(self, one: ApiObject) -> LogLine:
        return LogLine(f"{'; '.join(map(str, one.decoded.problems))}: the object is passed over")

    def _broke(self, refusal: Refusal, now_s: float) -> None:
        """The stream cannot be believed, or the server says that it cannot go on."""
        if refusal.code == GONE or self._breaks_again():
            self._list_again()
        self._fail(str(refusal) if refusal.code else refusal.message, now_s, asked_s=refusal.retry_after_s)

    def _breaks_again(self) -> bool:
        """Once too often: then a list that was to be streamed is asked for in pages."""
        self._breaks += 1
        if self._breaks < MAX_BREAKS:
            return False
        self._breaks, self._by_pages = 0, self._collected is not None
        return True

    def _stream_ended(self, now_s: float, error: str, silent: bool) -> None:
        if self._collected is not None:
            # a server that ignores what it does not know never tells where the list ends
            if not self._breaks_again() and self._status == OK:
                self._by_pages = silent or not error
            self._collected = None
            self._fail(error or "the list ended before it was complete", now_s)
        elif silent and self._status == OK:
            # as from a server that was restored from a backup, and waits for a version that is not to come
            self._suspect = not self._heard
        elif error or not self._status:
            self._fail(error or "no answer", now_s)
        elif not self._heard and now_s - self._began_s < SHORTEST_WATCH_S:
            self._fail("the server ends watches at once", now_s)
        else:
            self._backoff.reset()
            self._due_s = max(now_s, self._began_s + SHORTEST_WATCH_S)
