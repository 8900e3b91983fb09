"""What systemd is told: sd_notify(3)'s protocol, which is datagrams of assignments, one a line.

As of systemd 252 and 257: a datagram of more than 4,096 bytes is ignored whole, and so is a STATUS that is no UTF-8.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from kpf.observe.vitals import Vitals

log = logging.getLogger("kpf")

# far from what a datagram may have, and enough for a line
STATUS_BYTES = 1000
BEAT_S = 5.0
# a start that is under way has this much time more, from each time on that it is said
START_EXTENSION_S = 60.0


class ServiceManager:
    """The one at `$NOTIFY_SOCKET`; without one, nothing is told. `vitals`: how kpf is at the moment."""

    def __init__(self, vitals: Callable[[], Vitals] = Vitals) -> None:
        self._vitals = vitals
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s()
        self._is_ready = self._is_known_ready = self._is_reloading = self._is_stopping = False
        self._is_deaf = False
        self._hung_beats = 0

    def tell_of(self, vitals: Callable[[], Vitals]) -> None:
        """From now on this says how kpf is."""
        self._vitals = vitals

    async def keep_alive(self) -> None:
        """Tell how kpf is, and, unless it hangs, that it lives. Never ends by itself.

        Each time extends a start that waits; after it the manager waits for $WATCHDOG_USEC, which is four beats at
        least.
        """
        while True:
            self._beat()
            await asyncio.sleep(min(BEAT_S, self._watchdog_s / 4))

    def _beat(self) -> None:
        vitals = self._vitals()
        hang = vitals.hang()
        self._hung_beats = self._hung_beats + 1 if hang else 0
        # the only worker may just be being replaced
        if self._hung_beats == 2 and self._address:
            log.error("the service manager is not told that kpf lives: %s", hang)
        # a stop has said what is to be shown, and how long it may take
        said = [] if self._is_stopping else [_status(vitals.text())]
        if not hang:
            said.append("WATCHDOG=1")
            if not self._is_ready and not self._is_stopping:
                said.append(_extension(START_EXTENSION_S))
        # one that was lost is said again
        is_ready_due = self._is_ready and not self._is_known_ready
        if is_ready_due:
            said.append("READY=1")
        if said and self._tell(*said, is_news=is_ready_due) and is_ready_due:
            self._is_known_ready = True

    def ready(self) -> None:
        """The start is over."""
        self._is_ready = True
        self._beat()

    def reloading(self) -> None:
        """Until `reloaded`. A start that is not over goes on being one."""
        if self._is_known_ready:
            self._is_reloading = True
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("reloading"))

    def reloaded(self) -> None:
        """It goes on as before, whatever became of the reload."""
        if self._is_reloading:
            self._is_reloading = False
            self._tell("READY=1", _status(self._vitals().text()))

    def stopping(self, text: str, *, patience_s: float) -> None:
        """The stop may take so long; then the manager kills. Beats go on, and say no more than that kpf lives."""
        self._is_stopping = True
        self._tell("STOPPING=1", _status(text), _extension(patience_s))

    def _tell(self, *assignments: str, is_news: bool = True) -> bool:
        """Whether it has been told. News that are not are logged, once in a row, and no reason to stop anything."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                # one that does not read must not hold us up
                manager.setblocking(False)
                manager.connect(self._address)
                manager.send("\n".join(assignments).encode())
        except OSError as error:
            if is_news and not self._is_deaf:
                log.warning("the service manager cannot be told anything: %s", error)
                self._is_deaf = True
            return False
        self._is_deaf = False
        return True


def _status(text: str) -> str:
    """One line, whoever's words are in it: another one would be another assignment."""
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return "STATUS=" + shown.encode()[:STATUS_BYTES].decode(errors="ignore")


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def _watchdog_s() -> float:
    """Within which the manager wants to hear that we live; infinite if it does not: sd_watchdog_enabled(3)."""
    interval_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or int(interval_us) == 0 or pid not in ("", str(os.getpid())):
        return float("inf")
    return int(interval_us) / 1_000_000
