"""What is known of the table: whatever happens to it, nothing is believed that is not so."""

from contextlib import suppress
from enum import Enum, auto
from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.rules import Rules
from kpf.nft.table import Foreign, Known, Table, Unknown

OLD, NEW = (Rules(cluster_ips=frozenset({ip_address(f"10.96.0.{number}")})) for number in (1, 2))
KNOWN, DOUBTED, UNKNOWN, FOREIGN = Known(OLD), Unknown(OLD), Unknown(), Foreign()
State = Known | Unknown | Foreign


class Outcome(Enum):
    """Of a transaction. `LOST`: it is carried out, and nobody knows."""

    COMMITTED = auto()
    REFUSED = auto()
    LOST = auto()


class Write(NamedTuple):
    rules: Rules | None = NEW
    outcome: Outcome = Outcome.COMMITTED
    is_touched_meanwhile: bool = False


class Event(Enum):
    DOUBT = auto()
    TOUCH = auto()
    FORGET = auto()


class FailedError(Exception):
    """Whatever ends a transaction otherwise than well."""


class World:
    """The table, who has touched it, and a writer that goes by what is known.

    `rules`: what it says; None if that is anything. `has_strangers`: there may be what is not ours.
    """

    def __init__(self) -> None:
        self.table = Table()
        self.rules: Rules | None = None
        self.has_strangers = self.was_touched = self.is_doubted = False

    def touch(self) -> None:
        self.rules, self.has_strangers, self.was_touched = None, True, True
        self.table.distrust()

    def doubt(self) -> None:
        self.is_doubted = True
        self.table.doubt()

    def forget(self) -> None:
        """Another kpf has filled it with rules of its own."""
        self.rules, self.is_doubted = None, True
        self.table.forget()

    def write(self, write: Write) -> None:
        is_foreign = isinstance(self.table.state, Foreign)
        with suppress(FailedError), self.table.transaction(write.rules, anew=is_foreign):
            assert self.table.rules is None, "a transaction may end anyhow"
            if write.outcome in (Outcome.COMMITTED, Outcome.LOST):
                self.rules = write.rules
                self.has_strangers = self.has_strangers and not is_foreign
            if write.outcome is Outcome.COMMITTED:
                self.was_touched = self.is_doubted = False
            if write.is_touched_meanwhile:
                self.touch()
            if write.outcome is not Outcome.COMMITTED:
                raise FailedError

    def check(self) -> None:
        state = self.table.state
        if isinstance(state, Known):
            assert state.rules == self.rules
            assert not self.is_doubted, "there is no full sync"
        if isinstance(state, Unknown) and state.written is not None:
            assert state.written == self.rules
        if self.has_strangers:
            assert isinstance(state, Foreign), "who has touched it is forgotten"
        if isinstance(state, Foreign):
            assert self.was_touched, "it is made anew for nothing"


writes = st.builds(Write, st.sampled_from([OLD, NEW]), st.sampled_from(Outcome), st.booleans())


@given(st.lists(st.sampled_from(Event) | writes))
def test_nothing_is_believed_that_is_not_so(events: list[Event | Write]) -> None:
    world = World()
    for event in events:
        match event:
            case Event.DOUBT:
                world.doubt()
            case Event.TOUCH:
                world.touch()
            case Event.FORGET:
                world.forget()
            case Write():
                world.write(event)
        world.check()


@pytest.mark.parametrize("before", [KNOWN, DOUBTED, UNKNOWN])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_transaction_on_a_table_of_ours(before: State, outcome: Outcome) -> None:
    assert after(before, Write(outcome=outcome)) == (Known(NEW) if outcome is Outcome.COMMITTED else UNKNOWN)
    assert after(before, Write(outcome=outcome, is_touched_meanwhile=True)) == FOREIGN


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_foreign_table_is_ours_only_once_it_has_been_made_anew(outcome: Outcome, *, anew: bool) -> None:
    is_ours = anew and outcome is Outcome.COMMITTED
    assert after(FOREIGN, Write(outcome=outcome), anew=anew) == (Known(NEW) if is_ours else FOREIGN)
    assert after(FOREIGN, Write(outcome=outcome, is_touched_meanwhile=True), anew=anew) == FOREIGN


@pytest.mark.parametrize(
    ("before", "doubted"), [(KNOWN, DOUBTED), (DOUBTED, DOUBTED), (UNKNOWN, UNKNOWN), (FOREIGN, FOREIGN)]
)
def test_a_full_sync_that_is_due_keeps_what_is_known_beside(before: State, doubted: State) -> None:
    table = Table()
    table.state = before
    table.doubt()
    assert table.state == doubted
    assert table.rules is None


@pytest.mark.parametrize(
    ("before", "forgotten"), [(KNOWN, UNKNOWN), (DOUBTED, UNKNOWN), (UNKNOWN, UNKNOWN), (FOREIGN, FOREIGN)]
)
def test_what_another_kpf_has_written_is_looked_at(before: State, forgotten: State) -> None:
    table = Table()
    table.state = before
    table.forget()
    assert table.state == forgotten


def after(before: State, write: Write, *, anew: bool = False) -> State:
    table = Table()
    table.state = before
    with suppress(FailedError), table.transaction(write.rules, anew=anew):
        if write.is_touched_meanwhile:
            table.distrust()
        if write.outcome is not Outcome.COMMITTED:
            raise FailedError
    return table.state


def test_what_a_table_is_after_it_has_been_deleted_is_not_known() -> None:
    assert after(KNOWN, Write(None)) == UNKNOWN
