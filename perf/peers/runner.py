"""Turns in a world where all subjects run: load, and what it cost. All effects of measuring are here."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import psutil

from kpf.lab.machine import wait_until
from perf.cpu import Meter
from perf.load import bulk, idle
from perf.load.result import Result
from perf.peers.cases import SOURCES, Load, closed_loop
from perf.peers.order import Place
from perf.peers.record import Memory, Transfers, Turn
from perf.peers.subjects import SubjectFailedError
from perf.peers.world import World

IDLE = 2000
SOFTIRQ = "ksoftirqd/"
# connections that a process has had before its memory is first read: what it makes for the first one is no connection's
TRIED = 8
# around the sizes of the relays' buffers and pipes
ODD_SIZES = (16_385, 65_537, 1_048_577, 5_000_011, 20_000_003)
TRANSFERS_EACH = 20
# of all processes together within the 10 ms between two looks
QUIET_S = 0.0002


class Runner:
    """Meters for a world; a process's CPU may be read at any time, so one of each is enough."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._subjects = {name: Meter(running.pids.values()) for name, running in world.running.items()}
        self._backends = Meter([world.backends_pid])
        self._clients = Meter([world.clients_pid])
        # none where the kernel's threads are not to be seen, as in a container
        named = psutil.process_iter(["name"])
        self._softirq = Meter(process.pid for process in named if process.info["name"].startswith(SOFTIRQ))

    def check(self) -> None:
        """Every subject serves requests. Raises `SubjectFailedError`."""
        for name in self._subjects:
            result = self._world.bear(closed_loop(0.05), name)
            if not result.units:
                raise SubjectFailedError(f"{name} does not answer: {result.errors}")

    def a_quarter_of_what_it_does(self, subject: str, seconds: float) -> float:
        """A quarter of the requests per second that a subject does in a closed loop, to two digits.

        At half of them two CPUs are busy for 80 % of the time, since fewer requests share a wake-up: then every latency
        is mostly waiting for a CPU.
        """
        rates = [self._world.bear(closed_loop(seconds), subject).rate_per_s for _ in range(3)]
        quarter = sorted(rates)[1] / 4
        return round(quarter, 1 - math.floor(math.log10(quarter)))

    def turn(self, place: Place, load: Load) -> Turn:
        """Take one turn. Raises `CallFailedError`."""
        meters = (self._subjects[place.subject], self._backends, self._clients, self._softirq)
        before, busy_before_s = [meter.read() for meter in meters], _busy_s()
        result = self._world.bear(load, place.subject)
        _settle(meters[:3])
        used = [meter.read() - then for meter, then in zip(meters, before, strict=True)]
        own, backends, clients, softirq = used
        return Turn(
            round=place.round,
            case=place.case,
            subject=place.subject,
            units=result.units,
            seconds=result.seconds,
            total_s=own.total_s,
            user_s=own.user_s,
            system_s=own.system_s,
            backends_s=backends.total_s,
            clients_s=clients.total_s,
            softirq_s=softirq.total_s,
            others_s=_busy_s() - busy_before_s - sum(one.total_s for one in used),
            p50_ms=_percentile_ms(result, 50),
            p99_ms=_percentile_ms(result, 99),
            errors=result.errors,
        )

    def memory(self, subject: str) -> Memory:
        """Memory of idle connections: to be asked once, of a process that has not had that many before."""
        target = self._world.running[subject].target
        outside = self._world.lab.outside
        with outside.converse(idle.hold, target, connections=TRIED, sources=SOURCES):
            pass
        before = sum(self.sizes(subject).values())
        with outside.converse(idle.hold, target, connections=IDLE, sources=SOURCES) as held:
            during = sum(self.sizes(subject).values())
            return Memory(subject, IDLE, before, during, held.first.errors)

    def sizes(self, subject: str) -> dict[str, int]:
        """The private memory (USS) of each of its processes now, in bytes."""
        pids = self._world.running[subject].pids
        return {what: psutil.Process(pid).memory_full_info().uss for what, pid in pids.items()}

    def transfers(self, subject: str) -> Transfers:
        """A hundred transfers of odd sizes, downloads beside uploads."""
        begun, done, errors = 0, 0, dict[str, int]()
        for size in ODD_SIZES:
            load = partial(bulk.both, connections=TRANSFERS_EACH // 2, bytes_each=size, sources=SOURCES)
            result = self._world.bear(load, subject)
            begun += TRANSFERS_EACH
            done += result.units
            errors = {why: errors.get(why, 0) + result.errors.get(why, 0) for why in {*errors, *result.errors}}
        return Transfers(subject, begun, done, errors)


def _busy_s() -> float:
    """CPU seconds of the whole machine that were not idle."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _settle(meters: Sequence[Meter]) -> None:
    """Wait until nobody is busy any more with what the clients are already done with; not for ever."""
    last = -math.inf

    def quiet() -> bool:
        nonlocal last
        now = sum(meter.read().total_s for meter in meters)
        last, used = now, now - last
        return used < QUIET_S

    with suppress(TimeoutError):
        wait_until(quiet, timeout_s=0.2)


def _percentile_ms(result: Result, q: float) -> float | None:
    value = result.percentile_ms(q)
    return None if math.isnan(value) else value
