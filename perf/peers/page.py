"""peers.md: the tables, of what and when they are, and how to make them again. Pure."""

from collections.abc import Mapping

from perf.peers import cases
from perf.peers.figures import Figures
from perf.peers.record import Run
from perf.peers.subjects.base import WORKERS
from perf.peers.tables import grids

# above this share of others, ratios begin to depend on who was disturbed
NOISY = 0.1

METHOD = """\
All subjects run at the same time in the node's place of one private network namespace, between the same clients and the
same four backends, and take turns of {seconds:g} s (of {gib:.2g} GiB in transfers), in another order each time.
Figures are medians of {rounds} rounds after one to warm up, in brackets the quartiles. Ratios are taken within a
round, so a ratio is not that of two medians.

- *CPU* is of all processes of the subject: master and {workers} workers, or {workers} threads. *user* and *system* are
  sampled by the kernel, over all turns. The kernel's work for a packet is on the account of whoever runs when it comes.
- *CPU of all* is of subject, backends, clients and ksoftirqd, per unit: the only one that can be compared with nftables
  and with no proxy, where no process does the work.
- *noise* is kpf measured twice in each round: a difference smaller than its own from 1, or than its quartiles', means
  nothing. Targets count both.
- Requests include the opening of their {kept} connections. Without a proxy the clients go to one of the pods.
- All but "no DNAT" and "no proxy" are reached at a Service's address, by DNAT; connections are tracked for all.
- Clients, backends and subjects share {cores} CPUs: throughput and latency are those of all together.
"""


def markdown(figures: Figures, plots: Mapping[str, str]) -> str:
    """The page; `plots` are file names by what they show."""
    run = figures.run
    parts = ["# kpf and its peers", _when(figures), _method(run)]
    parts += [f"![{what}]({name})" for what, name in plots.items()]
    parts += [grid.markdown().rstrip() for grid in grids(figures)]
    parts.append("Configurations, commands and every turn: peers.json.")
    return "\n\n".join(parts) + "\n"


def quietness(figures: Figures) -> str:
    """Whether others were at work meanwhile."""
    part = figures.others_part()
    if part < -NOISY:
        return "Whether the machine was quiet cannot be told: its clock ticks have missed too much."
    said = "not quiet: measure again when it is" if part > NOISY else "quiet"
    return (
        f"Of the CPU used in turns under full load {max(part, 0):.0%} was of other processes: the machine was {said}."
    )


def _when(figures: Figures) -> str:
    run = figures.run
    about = run.machine
    where = [about["cpu"], f"{about['cores']} CPUs", f"{about['memory_gib']} GiB", about["kernel"], about["python"]]
    sysctls = ", ".join(f"{name}={value}" for name, value in run.sysctls.items())
    return "\n".join(
        [
            f"{run.date}, {run.took_s:.0f} s. {', '.join(map(str, where))}.",
            quietness(figures),
            f"Set on the node: {sysctls}; on all hosts what the README recommends.",
            "Again: `make perf`. These tables and plots from the record: `python -m perf.peers --plot peers.json`.",
        ]
    )


def _method(run: Run) -> str:
    return METHOD.format(
        seconds=run.seconds,
        gib=run.seconds * cases.BYTES_PER_SECOND / cases.GIB,
        rounds=run.rounds,
        workers=WORKERS,
        kept=cases.KEPT_ALIVE,
        cores=run.machine["cores"],
    ).rstrip()
