"""Histograms of times in shared memory: which bucket counts what, and that workers count there."""

from bisect import bisect_right

import pytest

from kpf.shm import layout
from kpf.shm.directory import Directory
from kpf.shm.layout import DIAL_BOUNDS_MS, DURATION_BOUNDS_MS, F_DIALS, F_DIALS_BY_BITS, F_LASTED, F_LASTED_BY_BITS
from kpf.shm.observer import Took
from kpf.shm.region import Region


@pytest.mark.parametrize(
    ("bounds_ms", "by_bits", "first"),
    [(DIAL_BOUNDS_MS, F_DIALS_BY_BITS, F_DIALS), (DURATION_BOUNDS_MS, F_LASTED_BY_BITS, F_LASTED)],
)
def test_a_time_is_in_the_bucket_of_the_first_bound_above_it(
    bounds_ms: tuple[int, ...], by_bits: tuple[int, ...], first: int
) -> None:
    edges = {one + near for one in bounds_ms for near in (-1, 0, 1)} | {0, 2, 100, (1 << 64) - 1}
    for time_ms in edges:
        assert by_bits[time_ms.bit_length()] == first + bisect_right(bounds_ms, time_ms), time_ms


def test_no_two_counters_are_one_word() -> None:
    words = [layout.F_TOTAL, layout.F_ENDED, layout.F_BYTES_IN, layout.F_BYTES_OUT, layout.F_RETRIES, layout.F_HITS]
    words += [layout.F_FAILED + reason for reason in layout.Reason]
    words += [layout.F_DIALS_MS, *range(F_DIALS, F_DIALS + len(DIAL_BOUNDS_MS) + 1)]
    words += [layout.F_LASTED_MS, *range(F_LASTED, F_LASTED + len(DURATION_BOUNDS_MS) + 1)]
    assert len(set(words)) == len(words)
    assert max(words) < layout.FRONTEND_COUNTERS


def test_a_frontend_has_what_all_workers_have_counted() -> None:
    region = Region.create()
    directory = Directory(region)
    directory.take_worker_slots(2)
    slot = directory.claim(b"")
    for worker in (0, 1):
        start = region.layout.frontend_counter(worker, slot)
        for word in range(layout.F_DIALS_MS, layout.FRONTEND_COUNTERS):
            region.words[start + word] = word * (worker + 1)
    view = directory.frontend(slot)
    assert view.dials == Took(tuple(3 * word for word in range(13, 23)), 36)
    assert view.lasted == Took(tuple(3 * word for word in range(24, 38)), 69)
