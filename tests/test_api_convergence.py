"""Whatever happens to the conversation with the API server, it ends in what the server has, and passes only through
what it had."""

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kpf.model.names import ObjectName
from kpf.sources.api import reflector as machine
from kpf.sources.api.deltas import Replaced, api_object
from kpf.sources.api.reflector import Reflector
from kpf.sources.api.resources import Request, resources
from kpf.sources.api.store import Store
from kpf.sources.decode import Kind
from tests.apiserver.http import list_body
from tests.apiserver.objects import service
from tests.apiserver.options import options
from tests.apiserver.resources import SERVICES
from tests.apiserver.status import ApiError
from tests.apiserver.store import Store as ServerStore
from tests.apiserver.store import key_of
from tests.apiserver.watches import Watch, error_line

NAMES = ("web", "shop", "api")
# steps in which any conversation comes right
MANY = 100

State = dict[ObjectName, str]


class Server:
    """The API server, without HTTP: it answers when it is told to, and not whole if it is told so."""

    def __init__(self) -> None:
        self.store = ServerStore(1000)
        self.streams = True
        self.watch: Watch | None = None

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Status, and the body as far as it is there at once."""
        self.watch = None
        try:
            wanted = options(SERVICES, dict(request.query), streaming_list=self.streams)
            if not wanted.watch:
                return 200, list_body(SERVICES, self.store.page(SERVICES, wanted))
            self.watch = Watch(SERVICES, wanted, self.store)
        except ApiError as error:
            if error.code == 410 and ("watch", "true") in request.query:
                return 200, error_line(error)
            return error.code, orjson.dumps(error.status)
        return 200, self.more()

    def more(self) -> bytes:
        """What has come on the open watch since."""
        return b"".join(data for data, _ in self.watch.take()) if self.watch else b""

    def put(self, name: str, port: int) -> None:
        change = self.store.put(service(name, "10.96.0.1", port=port))
        if self.watch:
            self.watch.offer(change)

    def delete(self, name: str) -> None:
        change = self.store.delete(SERVICES, key_of("default", name))
        if self.watch:
            self.watch.offer(change)

    def state(self) -> State:
        store = Store("")
        raws = [record.value for record in self.store.sorted_objects(SERVICES)]
        store.apply(Kind.SERVICE, Replaced(tuple(api_object(Kind.SERVICE, raw) for raw in raws)))
        return state_of(store)


def state_of(store: Store) -> State:
    return {name: str(one.ports) for name, one in store.snapshot().services.items()}


class Conversation(RuleBasedStateMachine):
    """`_past`: the states that the server has had; `_seen`: the place in it up to which the store has come."""

    def __init__(self) -> None:
        super().__init__()
        self._server, self._store = Server(), Store("")
        self._reflector = Reflector(resources("node-1")[0], chance=lambda: 0.5)
        self._now_s = 0.0
        self._open = False
        self._past: list[State] = [{}]
        self._seen = 0

    # what happens to the server

    @initialize(names=st.permutations(NAMES))
    def begin(self, names: list[str]) -> None:
        for name in names:
            self.put(name, 1)

    @rule(name=st.sampled_from(NAMES), port=st.integers(1, 3))
    def put(self, name: str, port: int) -> None:
        self._server.put(name, port)
        self._past.append(self._server.state())

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if key_of("default", name) in self._server.store.newest(SERVICES):
            self._server.delete(name)
            self._past.append(self._server.state())

    @rule()
    def compact(self) -> None:
        self._server.store.expire()

    @rule()
    def upgrade_or_downgrade(self) -> None:
        self._server.streams = not self._server.streams

    @rule()
    def bookmark(self) -> None:
        if self._server.watch:
            self._server.watch.bookmark()

    # no server is at version 0: to watch from there means another thing
    @precondition(lambda self: self._server.store.version > max(self._server.store.compacted, 1))
    @rule(data=st.data())
    def restore_a_backup(self, data: st.DataObject) -> None:
        store = self._server.store
        store.restore(data.draw(st.integers(max(store.compacted, 1), store.version - 1)))
        self._past.append(self._server.state())
        self._end("the connection was reset")
        # before the versions that were given away come again: after that nobody can tell
        self.catch_up()

    # what happens to the conversation

    @rule(whole=st.sampled_from([1.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.1]))
    def ask(self, whole: float) -> None:
        """The answer is whole, or only a part of it comes."""
        if self._open:
            return
        asked = self._reflector.next(self._now_s)
        if isinstance(asked, float):
            self._now_s = asked
            return
        status, body = self._server.answer(asked)
        self._open = True
        self._reflector.begin(status, self._now_s)
        self._hear(body[: int(len(body) * whole)])
        if whole < 1:
            self._end("the connection was cut")
        elif self._server.watch is None:
            self._end("")

    @rule()
    def cannot_ask(self) -> None:
        if not self._open:
            asked = self._reflector.next(self._now_s)
            if isinstance(asked, float):
                self._now_s = asked
            else:
                self._open = True
                self._end("cannot connect: Connection refused")

    @rule(code=st.sampled_from([429, 500, 503]))
    def is_refused(self, code: int) -> None:
        asked = self._reflector.next(self._now_s) if not self._open else 0.0
        if isinstance(asked, Request):
            self._open, self._server.watch = True, None
            self._reflector.begin(code, self._now_s)
            self._end("")

    @rule(pieces=st.integers(1, 400))
    def hear(self, pieces: int) -> None:
        """Some time passes, and what has come meanwhile comes in pieces of so many bytes."""
        self._now_s += 2.0
        if self._open:
            body = self._server.more()
            for start in range(0, len(body), pieces):
                self._hear(body[start : start + pieces])

    @rule(cut=st.integers(0, 400))
    def cut(self, cut: int) -> None:
        if self._open:
            self._hear(self._server.more()[:cut])
            self._end("the connection was cut")

    @rule()
    def hear_garbage(self) -> None:
        if self._open:
            self._hear(b"\n<html>\n")

    @rule()
    def time_out(self) -> None:
        if self._open:
            self._hear(self._server.more())
            self._now_s += 300.0
            self._end("")

    @rule()
    def is_silent(self) -> None:
        if self._open:
            self._now_s += self._reflector.silence_s
            self._end("nothing came", silent=True)

    @rule()
    def catch_up(self) -> None:
        """All goes well from now on: soon the store has what the server has, and a live watch."""
        for _ in range(MANY):
            if not self._open:
                self.ask(whole=1.0)
                continue
            self._hear(self._server.more())
            self.bookmark()
            if not (end := self._server.more()):
                self.is_silent()
                continue
            self._hear(end)
            if self._open:
                break
        assert self._open
        assert state_of(self._store) == self._server.state()

    def teardown(self) -> None:
        self.catch_up()

    @invariant()
    def has_what_the_server_had(self) -> None:
        if not self._reflector.listed:
            assert state_of(self._store) == {}
            return
        now = state_of(self._store)
        assert now in self._past[self._seen :]
        self._seen += self._past[self._seen :].index(now)

    def _hear(self, data: bytes) -> None:
        if data:
            for event in self._reflector.feed(data, self._now_s):
                self._store.apply(Kind.SERVICE, event)
            if self._reflector.hangs_up:
                self._end("")

    def _end(self, error: str, *, silent: bool = False) -> None:
        if self._open:
            self._open, self._server.watch = False, None
            for event in self._reflector.end(self._now_s, error, silent=silent):
                self._store.apply(Kind.SERVICE, event)


class SmallPages(Conversation):
    """Where pages begin to matter with the third object."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(machine, "PAGE_OBJECTS", 2)
        self._reflector = Reflector(resources("node-1")[0], chance=lambda: 0.5)
        self._server.streams = False

    def teardown(self) -> None:
        super().teardown()
        self._patch.undo()


TestConversation, TestSmallPages = Conversation.TestCase, SmallPages.TestCase
TestConversation.settings = TestSmallPages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
