"""What a crowd of clients met, in figures for the tables and the claims."""

from collections.abc import Collection, Sequence

from kpf.lab.clients import Outcome, failures, median_first_byte_ms, names

# what a table says of times when nobody was served
NONE = "-"


def shares(outcomes: Sequence[Outcome], pods: Collection[str]) -> tuple[int, ...]:
    """How many each of the pods served, and last how many failed."""
    served = names(outcomes)
    return (*(served.get(pod, 0) for pod in pods), len(failures(outcomes)))


def times(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Median and longest time to the first byte of those that were served."""
    served = [outcome for outcome in outcomes if not outcome.error]
    if not served:
        return NONE, NONE
    slowest_s = max(outcome.first_byte_s for outcome in served)
    return f"{median_first_byte_ms(served):.2f} ms", f"{slowest_s * 1000:.0f} ms"


def is_even(outcomes: Sequence[Outcome], pods: Collection[str]) -> bool:
    """True if each of the pods has served as many as the next, give or take one, and nobody else any."""
    counts = list(names(outcomes).values())
    return names(outcomes).keys() == set(pods) and max(counts) - min(counts) <= 1


def errors(outcomes: Sequence[Outcome]) -> str:
    """How often each error was met; "" if none was."""
    return ", ".join(f"{count} {error}" for error, count in names(failures(outcomes)).items())


def window(outcomes: Sequence[Outcome], from_s: float, until_s: float) -> list[Outcome]:
    """Those that began in that time, in monotonic seconds."""
    return [outcome for outcome in outcomes if from_s <= outcome.began_s < until_s]
