"""What the acts under load have in common: rows of their tables, and the claim that no client noticed anything."""

from collections.abc import Sequence

from kpf.demo.numbers import errors, shares, times
from kpf.demo.scene import PODS
from kpf.demo.stage import Stage
from kpf.lab.clients import Outcome
from kpf.lab.load import Report

HEADER = ("connections", *PODS, "failed", "median", "slowest")
# long enough for shares that can be told from chance
CALM_S = 0.5


def row(when: str, outcomes: Sequence[Outcome]) -> tuple[object, ...]:
    """New connections: how many each pod has answered, and how long that took."""
    return (when, *shares(outcomes, PODS), *times(outcomes))


def kept_row(report: Report) -> tuple[object, ...]:
    """Of the kept connections: how many each pod has, and how the questions on them went."""
    kept = (report.kept.get(pod, 0) for pod in PODS)
    return ("kept", *kept, *shares(report.asked, ()), *times(report.asked))


def claim_no_error(stage: Stage, report: Report) -> None:
    """Neither a new connection nor a question on a kept one has failed; and there were some of both."""
    met = errors([*report.new, *report.asked])
    stage.claim(
        f"no client met an error: {len(report.new)} new connections, {len(report.asked)} questions on "
        f"{sum(report.kept.values())} kept ones" + (f"; errors: {met}" if met else ""),
        held=not met and bool(report.new) and bool(report.asked),
    )
