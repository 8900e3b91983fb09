"""The table of a half's states: a worker makes no move that is not in it, and every state in it is one that exists."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from kpf.worker.phases import LEGAL, PAIRS
from tests.far_end import Far
from tests.half_states import Seen
from tests.relay_world import World


class Start(NamedTuple):
    """`early`: what the client has sent by the time that it is accepted, and whether that is all."""

    pipes: int
    rounds: int
    has_small_sizes: bool
    dials: tuple[str, ...]
    early: tuple[int, bool]


PIPES = (0, 1, 1, 2)
ROUNDS = (1, 2)
FATES = ("silent", "refused", "answered")
EARLY = ((0, False), (0, False), (10, False), (100_000, False), (0, True), (50_000, True))

OF_THE_WORKER: Mapping[str, Callable[[World], object]] = {
    "the worker looks": World.look,
    "the worker settles": World.settle,
    "all go on": World.go_on,
    "10 ms": partial(World.wait, ms=10),
    "600 ms": partial(World.wait, ms=600),
    "the dials are answered": World.answer,
}
OF_AN_END: Mapping[str, Callable[[Far], object]] = {
    **{f"sends {size}": partial(Far.send, size=size) for size in (1, 100, 8_000, 16_384, 30_000, 300_000)},
    **{f"sends {size} and an urgent byte": partial(Far.send_marked, size=size) for size in (0, 1, 12_000, 30_000)},
    **{f"reads {size}": partial(Far.read, size=size) for size in (1, 10_000)},
    "reads all": Far.read_all,
}
LAST_OF_AN_END: Mapping[str, Callable[[Far], object]] = {
    "sends no more": Far.shut,
    **{f"sends its last {size}": partial(Far.send_last, size=size) for size in (12_000, 40_000, 60_000)},
    "resets": Far.reset,
}


def of_both(acts: Mapping[str, Callable[[Far], object]]) -> dict[str, Callable[[World], object]]:
    """They do nothing as long as there is no such end."""

    def done(world: World, end: str, act: Callable[[Far], object]) -> None:
        if far := world.ends.get(end):
            act(far)

    return {
        f"the {end} {name}": partial(done, end=end, act=act)
        for end in ("client", "backend")
        for name, act in acts.items()
    }


ACTIONS = {**OF_THE_WORKER, **of_both(OF_AN_END), **of_both(LAST_OF_AN_END)}
# how often they happen
CHOICE = [*8 * list(OF_THE_WORKER), *2 * list(of_both(OF_AN_END)), *of_both(LAST_OF_AN_END)]


def play(seen: Seen, start: Start, actions: Sequence[str]) -> None:
    size, shuts = start.early
    with World(
        seen, pipes=start.pipes, rounds=start.rounds, has_small_sizes=start.has_small_sizes, dials=start.dials
    ) as world:
        world.accept(size, shuts=shuts)
        for action in actions:
            ACTIONS[action](world)
        world.end()


@settings(max_examples=250)
@given(
    st.builds(
        Start,
        pipes=st.sampled_from(PIPES),
        rounds=st.sampled_from(ROUNDS),
        has_small_sizes=st.booleans(),
        dials=st.lists(st.sampled_from(FATES), max_size=4).map(tuple),
        early=st.sampled_from(EARLY),
    ),
    st.lists(st.sampled_from(CHOICE), max_size=40),
)
def test_whatever_happens_to_a_session_its_moves_are_legal_and_its_bytes_arrive(
    start: Start, actions: list[str]
) -> None:
    play(Seen(), start, actions)


def test_every_legal_state_is_reached() -> None:
    """By the same means, and luck that is always the same."""
    seen = Seen()
    for seed in range(1000):
        luck = random.Random(seed)
        start = Start(
            luck.choice(PIPES),
            luck.choice(ROUNDS),
            luck.random() < 0.5,
            tuple(luck.choices(FATES, k=luck.randrange(4))),
            luck.choice(EARLY),
        )
        play(seen, start, luck.choices(CHOICE, k=30))
    assert set(seen.states) == {(phase, state) for phase, states in LEGAL.items() for state in states}
    assert set(seen.pairs) == PAIRS
