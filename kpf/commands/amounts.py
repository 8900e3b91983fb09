"""Numbers and times as people read them. Pure."""

from datetime import datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count(number: int | None) -> str:
    """Of what the kernel forwards nothing is counted."""
    return "-" if number is None else str(number)


def rate(value: float | None) -> str:
    """Per second; one digit more where it is small."""
    return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def size(amount_bytes: float | None) -> str:
    """In bytes (of `--watch`: of one second), or thousands, ... of them; "-" if it is not known."""
    if amount_bytes is None:
        return "-"
    value = amount_bytes
    index = 0
    while value >= 999.5 and index < len(_UNITS) - 1:
        value, index = value / 1000, index + 1
    return f"{value:.0f} {_UNITS[index]}" if value >= 10 or not index else f"{value:.1f} {_UNITS[index]}"


def span(seconds: float) -> str:
    """The two largest units: "3 d 4 h", "12 min 5 s", "0.4 s"."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    left, parts = round(seconds), list[str]()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length} {unit}")
            left %= length
        elif parts:
            break
    return " ".join(parts[:2])


def seconds_between(earlier: str, later: str) -> float:
    """In seconds. Moments are as `kpf status --json` has them: RFC 3339."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
