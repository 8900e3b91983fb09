"""One worker process as the master sees it: how it starts, what it is told, when it has ended.

Started by fork and exec of `kpf.worker`, so that it never holds the master's memory. Everything runs on the event loop:
the pidfd and the channel are ordinary descriptors.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpf import __version__
from kpf.named import Named
from kpf.net import channel
from kpf.net.messages import Close, Configure, Done, Drain, Hold, Listen, NoRoom, Ready, Reset, Tell, Told
from kpf.worker import signals

log = logging.getLogger("kpf")

# it has died: the pidfd is about to say so
GONE = {errno.EPIPE, errno.ECONNRESET}
# of memory, or of descriptors that may be on their way at once (unix(7)): no fault of the worker, and it passes
SHORTAGES = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}
RETRY_S = 0.1


class WorkerGoneError(ConnectionError):
    """The worker ended before it acknowledged a message."""


Order = Configure | Listen | Close | Reset | Hold | Drain | Tell


@dataclass(slots=True)
class _Outgoing:
    """`files`: what goes with it.

    A number is asked for when it is sent: of a socket that is closed by then it is -1, never somebody else's.
    """

    message: Order
    files: Sequence[socket.socket | int]
    done: asyncio.Future[Told | None]

    def descriptors(self) -> list[int]:
        return [one if isinstance(one, int) else one.fileno() for one in self.files]


class WorkerProcess:
    """A running worker. `on_ready` and `on_exit` are called once each, from the event loop.

    One that cannot be spoken to is killed: its successor is told everything. Making one raises OSError.
    `answered`: what `send` has returned last: with it, all before it have been answered. `slot`: its place in shared
    memory, by which people know it, and `named` says so in the log.
    """

    def __init__(
        self,
        index: int,
        slot: int,
        *,
        on_ready: Callable[["WorkerProcess"], None],
        on_exit: Callable[["WorkerProcess", int], None],
    ) -> None:
        self.index, self.slot = index, slot
        self.uid: int | None = None
        self.answered: asyncio.Future[Told | None]
        self.privileges = ""
        self._on_ready, self._on_exit = on_ready, on_exit
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Outgoing] = deque()
        self._in_flight: _Outgoing | None = None
        self._again: asyncio.TimerHandle | None = None
        self._is_short = self._is_ready = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = _start(theirs, slot)
            self.pid = self._process.pid
            self._pidfd = _pidfd_of(self._process)
        except OSError:
            self._channel.close()
            raise
        self._channel.setblocking(False)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(self._channel, self._receive)

    @property
    def named(self) -> "Named":
        """For the log, as text and for machines."""
        return Named(f"worker {self.slot} (pid {self.pid})", worker=self.slot, pid=self.pid)

    def send(self, message: Order, files: Sequence[socket.socket | int] = ()) -> asyncio.Future[Told | None]:
        """Queue a message; the future ends with its acknowledgement, of `Tell` what is told, or with `WorkerGoneError`.

        One message is in flight at a time. What goes with it must stay open until it is sent: then the kernel holds it.
        """
        outgoing = _Outgoing(message, files, self._loop.create_future())
        # somebody may lose interest in a worker that dies
        outgoing.done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.answered = outgoing.done
        self._queue.append(outgoing)
        self._send_next()
        return outgoing.done

    def kill(self) -> None:
        """SIGKILL by its pidfd, so never to another process; `on_exit` is called once it has ended."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _send_next(self) -> None:
        if self._in_flight or self._again or not self._queue:
            return
        following = self._queue[0]
        try:
            channel.send(self._channel, following.message, following.descriptors())
        except OSError as error:
            if error.errno in SHORTAGES:
                self._send_later(f"{error.strerror}")
                return
            if error.errno not in GONE:
                self._give_up(error)
        self._in_flight = self._queue.popleft()

    def _send_later(self, why: str) -> None:
        if not self._is_short:
            log.warning("%s cannot be told anything yet: %s", self.named, why)
        self._is_short = True
        self._again = self._loop.call_later(RETRY_S, self._send_again)

    def _send_again(self) -> None:
        self._again = None
        self._send_next()

    def _receive(self) -> None:
        try:
            message, _ = channel.receive(self._channel)
        except BlockingIOError:
            return
        except EOFError:
            self._loop.remove_reader(self._channel)
            return
        except (channel.ChannelError, OSError) as error:
            self._give_up(error)
            return
        match message:
            case Ready(_, uid, privileges) if not self._is_ready:
                self._is_ready, self.uid, self.privileges = True, uid, privileges
                self._on_ready(self)
            case Done(number) | Told(number) if self._in_flight and number == self._in_flight.message.number:
                # who has asked may not wait any more
                if not self._in_flight.done.done():
                    self._in_flight.done.set_result(message if isinstance(message, Told) else None)
                self._in_flight, self._is_short = None, False
                self._send_next()
            case NoRoom(number) if self._in_flight and number == self._in_flight.message.number:
                self._queue.appendleft(self._in_flight)
                self._in_flight = None
                self._send_later("it is short of descriptors")
            case _:
                self._give_up(channel.ChannelError(f"it sent {message} out of turn"))

    def _give_up(self, cause: Exception) -> None:
        log.error("%s cannot be spoken to and is killed: %s", self.named, cause)
        self._loop.remove_reader(self._channel)
        self.kill()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._channel)
        if self._again:
            self._again.cancel()
        status = self._process.wait()
        os.close(self._pidfd)
        self._channel.close()
        unanswered = [*([self._in_flight] if self._in_flight else []), *self._queue]
        for outgoing in unanswered:
            if not outgoing.done.done():
                outgoing.done.set_exception(WorkerGoneError(f"{self.named} ended"))
        self._queue.clear()
        self._on_exit(self, status)


def _start(theirs: socket.socket, slot: int) -> "subprocess.Popen[bytes]":
    # -P: nothing is imported from a working directory that anybody may have written to
    command = [sys.executable, "-P", "-m", "kpf.worker", str(theirs.fileno()), __version__, f"worker {slot}"]
    with signals.blocked():
        return subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)


def _pidfd_of(process: "subprocess.Popen[bytes]") -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
