"""Figures that several scripts have: rate, latency, errors, and what a unit of load costs kpf in CPU."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from perf.cpu import Cpu, Meter
from perf.load.result import Result
from perf.report import Column, Row, Values
from perf.script import Run
from perf.subject import Subject

WARM_UP_S = 1.0

FAILED = Column("failed", "failed", "", 0)
LATENCY = (Column("p50", "p50", "ms", 2), Column("p99", "p99", "ms", 2), Column("max", "max", "ms", 2))


def cpu_columns(unit: str) -> tuple[Column, ...]:
    """The columns for what `Costs` measures; `unit` is that of the figures, such as "µs"."""
    titles = {"cpu": "CPU", "user": "user", "system": "system", "master": "master", "workers": "workers"}
    return tuple(Column(key, title, unit, 1) for key, title in titles.items())


def load_columns(unit: str) -> tuple[Column, ...]:
    """The columns for what `rounds` measures; `unit` is that of the rate, such as "req/s"."""
    return (*cpu_columns("µs"), Column("rate", "rate", unit, 0), *LATENCY, FAILED)


def row(result: Result, more: Values, *, case: str = "", errors: Mapping[str, int] = MappingProxyType({})) -> Row:
    """The round that had this result: rate, latency, errors and further `errors`; it is fine if there are none."""
    values = {**more, "rate": result.rate_per_s}
    if result.latencies_s:
        values |= {name: result.percentile_ms(q) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}
    found = Counter(result.errors) + Counter(errors)
    values["failed"] = found.total()
    return Row(values, found, case, fine=not found)


class Costs:
    """Measures from its making on; without a control socket it knows nothing."""

    def __init__(self, subject: Subject) -> None:
        self._meters: dict[str, Meter] = {}
        if subject.control_socket:
            self._meters["master"] = Meter([subject.master().pid])
            self._meters["workers"] = Meter([worker.pid for worker in subject.workers()])
        self._before = self._read()

    def per(self, units: float, *, factor: float) -> Values:
        """Seconds of CPU for each unit, times `factor`. User and system are known to the clock tick of 10 ms."""
        if not self._meters or not units:
            return {}
        spent = {name: now - self._before[name] for name, now in self._read().items()}
        total = {
            "cpu": sum(one.total_s for one in spent.values()),
            "user": sum(one.user_s for one in spent.values()),
            "system": sum(one.system_s for one in spent.values()),
            **{name: one.total_s for name, one in spent.items()},
        }
        return {name: value / units * factor for name, value in total.items()}

    def _read(self) -> dict[str, Cpu]:
        return {name: meter.read() for name, meter in self._meters.items()}


def rounds(run: Run, bear: Callable[[float], Result]) -> Iterator[Row]:
    """Rounds of a load that takes so many seconds, after one to warm up; CPU is microseconds for each unit."""
    bear(min(run.options.seconds, WARM_UP_S))
    for _ in run.rounds():
        costs = Costs(run.subject)
        result = bear(run.options.seconds)
        yield row(result, costs.per(result.units, factor=1e6))
