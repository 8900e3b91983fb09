"""What a run leaves behind: plain values, as raw as they were measured, and their JSON. Pure but for the file."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Turn:
    """One subject under one load for a moment.

    `units` are connections, requests or bytes, as the case says. CPU is in seconds: of the subject, `total` exact and
    user and system as the kernel splits it; of backends, clients and ksoftirqd (the kernel's, for packets); and of all
    others, to the clock tick. A turn with errors is no measurement.
    """

    round: int
    case: str
    subject: str
    units: float
    seconds: float
    total_s: float
    user_s: float
    system_s: float
    backends_s: float
    clients_s: float
    softirq_s: float
    others_s: float
    p50_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]

    @property
    def everything_s(self) -> float:
        """CPU seconds of all that took part: what can be compared where the kernel does the work."""
        return self.total_s + self.backends_s + self.clients_s + self.softirq_s


@dataclass(frozen=True, slots=True)
class Memory:
    """A subject's private memory (USS), in bytes, before and while it holds so many idle connections."""

    subject: str
    connections: int
    before: int
    during: int
    errors: dict[str, int]

    @property
    def per_connection(self) -> float:
        return (self.during - self.before) / self.connections


@dataclass(frozen=True, slots=True)
class Transfers:
    """Bulk transfers of odd sizes, both ways at once: how many were begun, and why some did not end well."""

    subject: str
    begun: int
    bytes: float
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Described:
    """A subject as it was measured; `how` is its configuration or command line, whole."""

    name: str
    title: str
    version: str
    how: str
    target: str
    processes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A subject that could not be measured, and the command that installs what it needs."""

    title: str
    install: str


@dataclass(frozen=True, slots=True)
class Run:
    """One whole run. `sizes`: private memory (USS) of each process of each subject at the end, in bytes."""

    date: str
    took_s: float
    machine: dict[str, str | int | float]
    sysctls: dict[str, str]
    rounds: int
    seconds: float
    rate_per_s: float
    subjects: list[Described]
    table: str
    left_out: list[LeftOut] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    transfers: list[Transfers] = field(default_factory=list)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)

    def titles(self) -> dict[str, str]:
        """The subjects' titles by name, in the order of the tables."""
        return {subject.name: subject.title for subject in self.subjects}


_JSON = TypeAdapter(Run)


def save(run: Run, path: Path) -> None:
    path.write_bytes(_JSON.dump_json(run, indent=1) + b"\n")


def load(path: Path) -> Run:
    """Raises `OSError`, and `ValueError` if it is not the record of a run."""
    return _JSON.validate_json(path.read_bytes())
