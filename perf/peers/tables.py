"""The figures of a run as tables. Pure."""

from perf.peers.cases import CASES, Case
from perf.peers.figures import AGAIN, KPF, Figures, Quantity, everything, p50, p99, rate, total
from perf.peers.grid import NOTHING, Grid, number, spread_of
from perf.peers.targets import MIB, Target, targets

ERROR_MARK = " †"


def grids(figures: Figures) -> list[Grid]:
    """All tables, in their order; those of what was not measured are left out."""
    found = [_targets(figures)] if KPF in figures.run.titles() else []
    found += [_case(figures, CASES[case]) for case in figures.cases()]
    found += [_memory(figures)] if figures.run.memory else []
    found += [_transfers(figures)] if figures.run.transfers else []
    found += [_subjects(figures)]
    return [*found, *([_left_out(figures)] if figures.run.left_out else [])]


def _targets(figures: Figures) -> Grid:
    rows = [[one.what, _figure(one), f"≤ {_measure(one.bound, one.unit)}", _verdict(one)] for one in targets(figures)]
    return Grid("Targets", ["kpf", "figure", "bound", "verdict"], rows)


def _figure(target: Target) -> str:
    if target.spread:
        return spread_of(target.spread, digits=2)
    return NOTHING if target.figure is None else _measure(target.figure, target.unit)


def _measure(value: float, unit: str) -> str:
    digits = {"x": 2, "": 0}.get(unit, 1)
    return f"{value:.{digits}f} {unit.strip('x')}".strip()


def _verdict(target: Target) -> str:
    return {True: "met", False: "missed", None: "not measured"}[target.met]


def _case(figures: Figures, case: Case) -> Grid:
    titles, base = figures.run.titles(), figures.base
    columns = [
        "",
        f"CPU, {case.cpu_unit} per {case.unit}",
        "user",
        "system",
        f"CPU to {titles[base]}",
        case.rate_unit,
        *(["p50, ms", "p99, ms"] if case.latency else []),
        "CPU of all",
    ]
    rows = [_row(figures, case, subject) for subject in figures.subjects(case.name)]
    if figures.noise(case.name, total):
        rows.append(_noise(figures, case))
    return Grid(_title(figures, case), columns, rows, _errors(figures, case))


def _title(figures: Figures, case: Case) -> str:
    at = f": {figures.run.rate_per_s:,.0f}/s" if case.name == "fixed-rate" else ""
    return f"{case.title}{at}"


def _row(figures: Figures, case: Case, subject: str) -> list[str]:
    def scaled(quantity: Quantity) -> str:
        found = figures.of(case.name, subject, quantity)
        return number(case.cpu(found.median)) if found else NOTHING

    cpu = figures.of(case.name, subject, total)
    user = figures.user_part(case.name, subject)
    speed = figures.of(case.name, subject, rate)
    latencies = [figures.of(case.name, subject, quantity) for quantity in (p50, p99)] if case.latency else []
    parts = [NOTHING] * 2
    if cpu and user is not None:
        parts = [number(case.cpu(cpu.median * part)) for part in (user, 1 - user)]
    return [
        figures.run.titles()[subject] + (ERROR_MARK if figures.errors(case.name, subject)[0] else ""),
        spread_of(cpu.times(case.cpu(1)) if cpu else None),
        *parts,
        spread_of(figures.ratio(case.name, subject, total, to=figures.base), digits=2),
        number(case.rate(speed.median)) if speed else NOTHING,
        *(number(found.median) if found else NOTHING for found in latencies),
        scaled(everything),
    ]


def _noise(figures: Figures, case: Case) -> list[str]:
    quantities = [rate, *((p50, p99) if case.latency else ()), everything]
    others = [figures.noise(case.name, quantity) for quantity in quantities]
    return [
        f"noise: {figures.run.titles()[AGAIN]} to kpf",
        "",
        "",
        "",
        spread_of(figures.noise(case.name, total), digits=2),
        *(f"x {found.median:.2f}" if found else NOTHING for found in others),
    ]


def _errors(figures: Figures, case: Case) -> list[str]:
    notes = []
    for subject in figures.subjects(case.name):
        turns, errors = figures.errors(case.name, subject)
        if turns:
            said = ", ".join(f"{count} {why}" for why, count in errors.items())
            title = figures.run.titles()[subject]
            notes.append(f"† {title}: {turns} of {figures.run.rounds} turns had errors and do not count: {said}.")
    return notes


def _memory(figures: Figures) -> Grid:
    titles, sizes = figures.run.titles(), figures.run.sizes
    rows = [
        [
            titles[one.subject],
            number(one.per_connection / 1024) if not one.errors else f"{sum(one.errors.values())} errors",
            ", ".join(f"{what} {size / MIB:.1f}" for what, size in sizes.get(one.subject, {}).items()),
        ]
        for one in figures.run.memory
    ]
    connections = figures.run.memory[0].connections
    return Grid(
        f"User memory (USS), {connections:,} idle connections",
        ["", "KB per idle connection", "MB of each process at the end"],
        rows,
    )


def _transfers(figures: Figures) -> Grid:
    titles = figures.run.titles()
    rows = [
        [titles[one.subject], str(one.begun), str(one.failed), ", ".join(f"{n} {why}" for why, n in one.errors.items())]
        for one in figures.run.transfers
    ]
    return Grid("Transfers of odd sizes, both ways at once", ["", "begun", "stalled or failed", "errors"], rows)


def _subjects(figures: Figures) -> Grid:
    rows = [[one.title, one.version or NOTHING, str(one.processes or NOTHING)] for one in figures.run.subjects]
    return Grid("Subjects", ["", "version", "processes"], rows, words=True)


def _left_out(figures: Figures) -> Grid:
    rows = [[one.title, one.install] for one in figures.run.left_out]
    return Grid("Left out, not installed", ["", "command"], rows, words=True)
