"""What kpf is to reach beside its peers, and whether it does. Pure."""

from dataclasses import dataclass

from perf.peers import cases
from perf.peers.figures import KPF, Figures, Quantity, Spread, p99, total

HAPROXY, SPLICED = "haproxy", "haproxy-splice"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """One bound: the figure, to two digits, is to be at most that; None if not measured. `unit` "x" is a ratio."""

    what: str
    bound: float
    unit: str
    figure: float | None
    spread: Spread | None = None

    @property
    def met(self) -> bool | None:
        return None if self.figure is None else round(self.figure, 2) <= self.bound


def targets(figures: Figures) -> list[Target]:
    """All of them, in the order of the tables."""
    return [
        _ratio(figures, "CPU per short connection, closed by the server, to HAProxy", 1.10, cases.SHORT_SERVER),
        _ratio(figures, "CPU per short connection, closed by the client, to HAProxy", 1.10, cases.SHORT_CLIENT),
        _ratio(figures, "CPU per request, to HAProxy", 1.05, cases.REQUESTS),
        _ratio(figures, "CPU per GiB down, to HAProxy", 0.5, cases.DOWNLOAD),
        _ratio(figures, "CPU per GiB up, to HAProxy", 0.5, cases.UPLOAD),
        _ratio(figures, "CPU per GiB down, to HAProxy with splice", 0.9, cases.DOWNLOAD, to=SPLICED),
        _ratio(figures, "CPU per GiB up, to HAProxy with splice", 0.9, cases.UPLOAD, to=SPLICED),
        _ratio(figures, "p99 of requests at a fixed rate, to HAProxy", 1.2, cases.FIXED_RATE, quantity=p99),
        Target("transfers of 100 that stalled or failed", 0, "", _failed(figures)),
        Target("user memory per idle connection", 1.0, "KB", _per_connection_kb(figures)),
        Target("user memory of the largest worker", 16.0, "MB", _worker_mb(figures)),
    ]


def _ratio(
    figures: Figures, what: str, bound: float, case: cases.Case, *, to: str = HAPROXY, quantity: Quantity = total
) -> Target:
    spread = figures.ours(case.name, quantity, to=to)
    return Target(what, bound, "x", spread.median if spread else None, spread)


def _failed(figures: Figures) -> float | None:
    return next((one.failed for one in figures.run.transfers if one.subject == KPF), None)


def _per_connection_kb(figures: Figures) -> float | None:
    found = (one for one in figures.run.memory if one.subject == KPF and not one.errors)
    return next((one.per_connection / 1024 for one in found), None)


def _worker_mb(figures: Figures) -> float | None:
    sizes = figures.run.sizes.get(KPF, {})
    return max((size / MIB for what, size in sizes.items() if what.startswith("worker")), default=None)
