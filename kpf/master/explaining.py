"""Answers `kpf explain` of what is in force, in turns with everything else on the loop."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kpf.explain.answer import UnknownError, answer
from kpf.explain.question import BadQuestionError, client_of, what_of
from kpf.explain.rows import client_at
from kpf.explain.state import AffinityEntry, State, T, Turns
from kpf.master.addresses import endpoint_of
from kpf.master.effects import Effects
from kpf.model.names import FrontendKey, IPAddress, SocketAddress
from kpf.nft.affinity import read_expiry
from kpf.nft.forwards import affinity_chain_of
from kpf.plan.allocation import Listener
from kpf.plan.desired import DesiredState
from kpf.shm.directory import Directory
from kpf.shm.lookups import affinity_entry_of, ejected_at
from kpf.shm.region import monotonic_ms

BAD_QUESTION, UNKNOWN = 400, 404
# one for each endpoint that the kernel forwards to with session affinity
MAX_SETS = 1_000


async def answered(
    query: Mapping[str, str], desired: DesiredState, effects: Effects, directory: Directory
) -> tuple[int, object]:
    """HTTP status, and JSON: the answer, or `{"message"}` if there is none. `query` has `what`, and may have `from`."""
    state = _state(desired, effects, directory)
    try:
        what = what_of(query.get("what", ""))
        client = client_at(client_of(query["from"]), state) if "from" in query else None
        found = await _in_turns(answer(what, client, state))
        if client and found.asked_of_kernel:
            state = replace(state, in_kernel=await _in_kernel(found.asked_of_kernel, state, client.address))
            found = await _in_turns(answer(what, client, state))
    except BadQuestionError as error:
        return BAD_QUESTION, {"message": str(error)}
    except UnknownError as error:
        return UNKNOWN, {"message": str(error)}
    return 200, found.told


async def _in_kernel(
    keys: Sequence[FrontendKey], state: State, client: IPAddress
) -> dict[FrontendKey, AffinityEntry | None]:
    """The client's entries of these frontends; nothing if the kernel does not tell."""
    sets: dict[str, tuple[FrontendKey, SocketAddress]] = {}
    for key in keys:
        forward = state.in_force.forwards.get(key)
        for endpoint in forward.endpoints if forward else ():
            sets[affinity_chain_of(key, endpoint)] = key, endpoint
    try:
        expiry = await read_expiry(list(sets)[:MAX_SETS], client)
    except OSError:
        return {}
    found = dict[FrontendKey, AffinityEntry | None]() if len(sets) > MAX_SETS else dict.fromkeys(keys)
    for name, left_ms in expiry.items():
        key, endpoint = sets[name]
        found[key] = AffinityEntry(endpoint, left_ms / 1000)
    return found


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

    # as it is now: others have their turns while the answer is made
    return State(desired, effects.rules, dict(effects.now.frontends), ejected, entry)
