"""What is named in the log and in lists of processes: for people as text, and for machines by keys of their own."""

from collections.abc import Mapping
from contextlib import suppress


class Named(str):
    """A part of a log message. `keys`: what it names, for a line of JSON (`kpf.observe.log`)."""

    keys: Mapping[str, object]

    def __new__(cls, text: str, **keys: object) -> "Named":
        """`text` as people read it."""
        self = super().__new__(cls, text)
        self.keys = keys
        return self


def call_process(name: str) -> None:
    """What `ps -e`, `top` and `pgrep` call this process: 15 bytes of it (proc(5), comm).

    A library that also writes over the arguments takes 7 ms of each worker's start (setproctitle 1.3.8).
    """
    # a sandbox may hide it: then it is as it was
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
