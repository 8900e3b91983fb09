"""The figures of a run as plots, PNG and SVG: legible in a page of 900 pixels, and without telling colours apart."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MultipleLocator

from perf.peers.cases import DOWNLOAD, FIXED_RATE, REQUESTS, SHORT_CLIENT, SHORT_SERVER, UPLOAD, Case
from perf.peers.figures import AGAIN, KPF, Figures, p50, p99, total
from perf.peers.grid import number

WIDTH_IN = 9.0
DPI = 200
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "ytick.major.size": 0,
    "svg.hashsalt": "peers",
}
# user and system, dark and light
OURS, THEIRS = ("#004a80", "#6fb1e0"), ("#5f5f5f", "#c6c6c6")
INK, BAND = "#222222", "#f0c75e"
LAYOUT = ((SHORT_SERVER, REQUESTS, DOWNLOAD), (SHORT_CLIENT, FIXED_RATE, UPLOAD))


def draw(figures: Figures, output: Path) -> dict[str, str]:
    """Write all plots; the PNGs' names by what they show. Raises `OSError`."""
    made = {}
    with matplotlib.rc_context(STYLE):
        if _measured(figures):
            made["CPU per unit"] = _save(_cpu(figures), output, "peers-cpu")
        if FIXED_RATE.name in figures.cases():
            made["Latency of requests at a fixed rate"] = _save(_latency(figures), output, "peers-latency")
        if _measured(figures):
            made["CPU per unit, every round"] = _save(_rounds(figures), output, "peers-rounds")
    return made


def _save(figure: Any, output: Path, name: str) -> str:
    figure.savefig(output / f"{name}.png", dpi=DPI)
    figure.savefig(output / f"{name}.svg", metadata={"Date": None})
    return f"{name}.png"


def _measured(figures: Figures) -> list[str]:
    """The subjects with CPU of their own, from top to bottom."""
    names = figures.run.titles()
    return [name for name in names if any(figures.of(case, name, total) for case in figures.cases())]


def _colours(subject: str) -> tuple[str, str]:
    return OURS if subject in (KPF, AGAIN) else THEIRS


def _panels(figures: Figures, subjects: Sequence[str], title: str) -> tuple[Any, Iterator[tuple[Case, Any]]]:
    """A figure, and its panels with their cases: a row for each subject, HAProxy's CPU (or kpf's) at 1."""
    layout = [[case for case in row if case.name in figures.cases()] for row in LAYOUT]
    layout = [row for row in layout if row]
    columns = max(map(len, layout))
    height_in = 0.9 + len(layout) * (0.75 + 0.3 * len(subjects))
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(len(layout), columns, sharex=True, sharey=True, squeeze=False)

    def panels() -> Iterator[tuple[Case, Any]]:
        for cases, row in zip(layout, axes, strict=True):
            for ax in row[len(cases) :]:
                ax.set_visible(False)
            for case, ax in zip(cases, row, strict=False):
                _dress(figures, case, ax)
                yield case, ax
        first = axes[0][0]
        first.set_yticks(range(len(subjects)), [_label(figures, name) for name in subjects])
        first.set_ylim(len(subjects) - 0.4, -0.6)
        for row in axes:
            _embolden(row[0], subjects)

    return figure, panels()


def _embolden(ax: Any, subjects: Sequence[str]) -> None:
    for label, name in zip(ax.get_yticklabels(), subjects, strict=True):
        label.set_fontweight("bold" if name == KPF else "normal")


def _label(figures: Figures, subject: str) -> str:
    return textwrap.fill(figures.run.titles()[subject], 16)


def _dress(figures: Figures, case: Case, ax: Any) -> None:
    ax.set_title(textwrap.fill(case.title, 30))
    ax.axvline(1.0, color=INK, linewidth=0.8, zorder=0.5)
    noise = figures.noise(case.name, total)
    if noise:
        width = max(abs(noise.low - 1), abs(noise.high - 1))
        ax.axvspan(1 - width, 1 + width, color=BAND, alpha=0.45, linewidth=0, zorder=0)
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    ax.xaxis.set_major_locator(MultipleLocator(0.5))
    ax.tick_params(labelbottom=True)


def _cpu(figures: Figures) -> Any:
    subjects = [name for name in _measured(figures) if name != AGAIN]
    base = figures.run.titles()[figures.base]
    figure, panels = _panels(figures, subjects, f"CPU per unit of work, {base} = 1: less is better")
    ends = [_bar(figures, case, ax, place, name) for case, ax in panels for place, name in enumerate(subjects)]
    # room for the longest figure at the end of the longest bar
    figure.axes[0].set_xlim(0, max(ends) + 0.5)
    handles = [
        Patch(color=THEIRS[0], label="user"),
        Patch(color=THEIRS[1], label="system"),
        Line2D([], [], color=INK, linewidth=1.2, label="quartiles"),
        Patch(color=BAND, alpha=0.45, label="noise: kpf against itself"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    return figure


def _bar(figures: Figures, case: Case, ax: Any, place: int, subject: str) -> float:
    """One bar with its spread and its absolute figure; how far it reaches."""
    ratio = figures.ratio(case.name, subject, total, to=figures.base)
    cpu = figures.of(case.name, subject, total)
    user = figures.user_part(case.name, subject)
    if ratio is None or cpu is None or user is None:
        ax.text(0.02, place, "not measured", va="center", color="#777777", fontsize=8)
        return 1.0
    dark, light = _colours(subject)
    ax.barh(place, ratio.median * user, height=0.66, color=dark)
    ax.barh(place, ratio.median * (1 - user), left=ratio.median * user, height=0.66, color=light)
    ax.plot([ratio.low, ratio.high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
    end = max(ratio.high, ratio.median)
    text = f"{number(case.cpu(cpu.median))} {case.cpu_unit}"
    ax.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    return end


def _rounds(figures: Figures) -> Any:
    subjects = _measured(figures)
    base = figures.run.titles()[figures.base]
    title = f"CPU per unit of work in every round, median of {base} = 1"
    figure, panels = _panels(figures, subjects, title)
    for case, ax in panels:
        reference = figures.of(case.name, figures.base, total)
        for place, subject in enumerate(subjects):
            turns = figures.values(case.name, subject, total)
            if not turns or reference is None:
                continue
            heights = [place + 0.5 * (round_ - 0.5) / figures.run.rounds - 0.25 for round_ in turns]
            values = [value / reference.median for value in turns.values()]
            ax.plot(values, heights, "o", markersize=3.6, color=_colours(subject)[0], alpha=0.75, markeredgewidth=0)
            middle = median(values)
            ax.plot([middle, middle], [place - 0.36, place + 0.36], color=INK, linewidth=1.4)
    figure.axes[0].set_xlim(left=0)
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=THEIRS[0], label="one round, the first on top"),
        Line2D([], [], marker="|", linestyle="", markersize=10, markeredgewidth=1.4, color=INK, label="median"),
        Patch(color=BAND, alpha=0.45, label="noise: kpf against itself"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    return figure


def _latency(figures: Figures) -> Any:
    case = FIXED_RATE.name
    subjects = figures.subjects(case)
    figure = Figure(figsize=(WIDTH_IN, 1.2 + 0.42 * len(subjects)), layout="constrained")
    title = f"Latency of requests at {figures.run.rate_per_s:,.0f}/s, ms: less is better"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    ax = figure.subplots()
    ax.set_xscale("log")
    ax.grid(axis="x", which="both", color="#e4e4e4", linewidth=0.6)
    for place, subject in enumerate(subjects):
        _latencies(figures, ax, place, subject)
    ax.set_yticks(range(len(subjects)), [figures.run.titles()[name] for name in subjects])
    ax.set_ylim(len(subjects) - 0.4, -0.6)
    ax.margins(x=0.06)
    _embolden(ax, subjects)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=THEIRS[0], label="p50"),
        Line2D([], [], marker="D", linestyle="", color=THEIRS[0], label="p99"),
        Line2D([], [], color=INK, linewidth=1.2, label="their quartiles over the rounds, p50 above p99"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    return figure


def _latencies(figures: Figures, ax: Any, place: int, subject: str) -> None:
    colour = _colours(subject)[0]
    middle, tail = (figures.of(FIXED_RATE.name, subject, quantity) for quantity in (p50, p99))
    if middle is None or tail is None:
        return
    ax.plot([middle.median, tail.median], [place, place], color=_colours(subject)[1], linewidth=3, zorder=1)
    for spread, marker, below in ((middle, "o", 0.2), (tail, "D", 0.3)):
        ax.plot([spread.low, spread.high], [place + below] * 2, color=INK, linewidth=1.2, zorder=2)
        ax.plot([spread.median], [place], marker, color=colour, markersize=6, zorder=3)
        at = (spread.median, place)
        ax.annotate(number(spread.median), at, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
