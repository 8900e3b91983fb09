"""New connections, with a record of who answered them and when."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from perf.load.result import Address, Result
from perf.load.short import Connection, Connections

# more texts than that are no names
MAX_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`began_s`: for each text that was answered, when the connections that got it began, in the order of their ends.

    The times are of the monotonic clock, which all processes of a machine share.
    """

    result: Result
    began_s: "dict[str, array[float]]"


def arrivals(target: Address, *, seconds: float, at_once: int, sources: Sequence[str] = ("",)) -> Arrivals:
    """As `short.connections`, and who answered each."""
    load = _Recording(target, sources=sources)
    return Arrivals(load.run(seconds, at_once), load.began_s)


class _Recording(Connections):
    began_s: "dict[str, array[float]]"

    def run(self, seconds: float, at_once: int) -> Result:
        self.began_s = {}
        return super().run(seconds, at_once)

    def finished(self, connection: Connection) -> None:
        super().finished(connection)
        text = connection.received.partition(b"\r\n\r\n")[2].decode(errors="replace").strip()
        if text in self.began_s or len(self.began_s) < MAX_NAMES:
            self.began_s.setdefault(text, array("d")).append(connection.began_s)
