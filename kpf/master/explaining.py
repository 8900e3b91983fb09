"""Answers `kpf explain` of what is in force, in turns with everything else on the loop."""

import asyncio
from collections.abc import Mapping

from kpf.explain.answer import UnknownError, answer
from kpf.explain.question import BadQuestionError, client_of, what_of
from kpf.explain.rows import client_at
from kpf.explain.state import AffinityEntry, State, T, Turns
from kpf.master.addresses import endpoint_of
from kpf.master.effects import Effects
from kpf.model.names import IPAddress, SocketAddress
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState
from kpf.shm.directory import Directory
from kpf.shm.lookups import affinity_entry_of, ejected_at
from kpf.shm.region import monotonic_ms

BAD_QUESTION, UNKNOWN = 400, 404


async def answered(
    query: Mapping[str, str], desired: DesiredState, effects: Effects, directory: Directory
) -> tuple[int, object]:
    """HTTP status, and JSON: the answer, or `{"message"}` if there is none. `query` has `what`, and may have `from`."""
    state = _state(desired, effects, directory)
    try:
        client = client_at(client_of(query["from"]), state) if "from" in query else None
        return 200, await _in_turns(answer(what_of(query.get("what", "")), client, state))
    except BadQuestionError as error:
        return BAD_QUESTION, {"message": str(error)}
    except UnknownError as error:
        return UNKNOWN, {"message": str(error)}


async def _in_turns(turns: Turns[T]) -> T:
    while True:
        try:
            next(turns)
        except StopIteration as end:
            made: T = end.value
            return made
        await asyncio.sleep(0)


def _state(desired: DesiredState, effects: Effects, directory: Directory) -> State:
    def ejected(listener: Listener) -> frozenset[SocketAddress]:
        slot = effects.slot_of(listener)
        found = [] if slot is None else ejected_at(directory.region, slot, now_ms=monotonic_ms())
        return frozenset(map(endpoint_of, found))

    def entry(listener: Listener, client: IPAddress) -> AffinityEntry | None:
        slot = effects.slot_of(listener)
        if slot is None:
            return None
        found = affinity_entry_of(directory.region, slot, str(client), now_ms=monotonic_ms())
        return AffinityEntry(endpoint_of(found.address), found.left_ms / 1000, found.is_out) if found else None

    return State(desired, effects.rules, effects.now.frontends, ejected, entry)
