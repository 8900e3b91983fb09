"""What is measured: loads, and in which words their figures are told. Pure; the loads are run by clients elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kpf.lab.topology import client_address
from perf.load import bulk, kept, short
from perf.load.result import Address, Result

Load = Callable[[Address], Result]

SOURCES = tuple(client_address(number) for number in range(20))
AT_ONCE = 32
KEPT_ALIVE = 64
STREAMS = 4
GIB = 1 << 30
# a second of a bulk turn is so much: about what a proxy here does in one
BYTES_PER_SECOND = GIB


@dataclass(frozen=True, slots=True)
class Case:
    """A load in the words of a table: CPU in `cpu_unit` per `unit`, of which there are `scale` recorded ones to it."""

    name: str
    title: str
    unit: str
    cpu_unit: str
    rate_unit: str
    scale: float = 1.0
    latency: bool = True

    def cpu(self, seconds: float) -> float:
        """CPU seconds per recorded unit, as the table has them."""
        return seconds * self.scale * {"µs": 1e6, "ms": 1e3}[self.cpu_unit]

    def rate(self, per_second: float) -> float:
        return per_second * {"/s": 1.0, "MB/s": 1e-6}[self.rate_unit]


SHORT_SERVER = Case("short-server", "Short connections, closed by the server", "connection", "µs", "/s")
SHORT_CLIENT = Case("short-client", "Short connections, closed by the client", "connection", "µs", "/s")
REQUESTS = Case("requests", f"Requests on {KEPT_ALIVE} kept-alive connections", "request", "µs", "/s")
FIXED_RATE = Case("fixed-rate", "Requests at a fixed rate", "request", "µs", "/s")
DOWNLOAD = Case("download", f"Download, {STREAMS} connections", "GiB", "ms", "MB/s", GIB, latency=False)
UPLOAD = Case("upload", f"Upload, {STREAMS} connections", "GiB", "ms", "MB/s", GIB, latency=False)

CASES = {case.name: case for case in (SHORT_SERVER, SHORT_CLIENT, REQUESTS, FIXED_RATE, DOWNLOAD, UPLOAD)}


def closed_loop(seconds: float) -> Load:
    """As many requests as there can be, each connection waiting for its answer."""
    return partial(kept.requests, seconds=seconds, connections=KEPT_ALIVE, sources=SOURCES)


def loads(*, seconds: float, rate_per_s: float) -> dict[str, Load]:
    """The load of each case, for a turn of about so many seconds."""
    connections = partial(short.connections, seconds=seconds, at_once=AT_ONCE, sources=SOURCES)
    bytes_each = int(seconds * BYTES_PER_SECOND / STREAMS)
    return {
        SHORT_SERVER.name: partial(connections, closes="server"),
        SHORT_CLIENT.name: partial(connections, closes="client"),
        REQUESTS.name: closed_loop(seconds),
        FIXED_RATE.name: partial(
            kept.requests, seconds=seconds, connections=KEPT_ALIVE, rate_per_s=rate_per_s, sources=SOURCES
        ),
        DOWNLOAD.name: partial(bulk.download, connections=STREAMS, bytes_each=bytes_each),
        UPLOAD.name: partial(bulk.upload, connections=STREAMS, bytes_each=bytes_each),
    }
