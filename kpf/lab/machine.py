"""A machine of the lab: somewhere to run programs and functions. Without a namespace of its own it is the node.

Programs started on a machine are children of ours, die with us (PR_SET_PDEATHSIG), and are in a session of their own:
Ctrl-C in a terminal reaches only us. Functions run in processes that are forked for us (`kpf.lab.forks`), of which the
same is true, but that they are no children of ours.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, Generic, ParamSpec, Self, TypeVar

from kpf.lab import call, namespace
from kpf.lab.forks import FORKS, Forked, Function, die_with
from kpf.lab.interrupts import INTERRUPTS

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


class CallFailedError(RuntimeError):
    """Code run on a machine raised, died or took too long; the text has its traceback."""


class Call(Generic[T]):
    """A function that runs on a machine, in a process of its own."""

    def __init__(self, process: Forked, connection: Connection, name: str) -> None:
        self.process = process
        self._connection = connection
        self._name = name

    def result(self, timeout_s: float = 60.0) -> T:
        """What the function returned. Raises `CallFailedError` if it raised, died, or took longer than `timeout_s`."""
        try:
            value: T = self._receive(timeout_s)
            return value
        finally:
            self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._connection.close()

    def _receive(self, timeout_s: float) -> Any:
        if not self._connection.poll(timeout_s):
            raise CallFailedError(f"{self._name}: no answer within {timeout_s:g} s")
        try:
            fine, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise CallFailedError(f"{self._name}: ended with status {self.process.wait()}") from None
        if not fine:
            raise CallFailedError(f"{self._name}: {value}")
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Conversation(Call[T], Generic[T, S]):
    """A generator that runs on a machine: `first` is its first value, `send` gives it a value and takes the next."""

    def __init__(self, process: Forked, connection: Connection, name: str) -> None:
        super().__init__(process, connection, name)
        try:
            self.first: T = self._receive(60.0)
        except CallFailedError:
            self.close()
            raise

    def send(self, value: S, timeout_s: float = 60.0) -> T:
        """What the generator yields next.

        Raises `CallFailedError` if it raises, ends or takes longer than `timeout_s`, `BrokenPipeError` if it has ended.
        """
        self._connection.send(value)
        answer: T = self._receive(timeout_s)
        return answer


class Machine:
    """Where programs and functions run. Without a namespace: where we are, the node."""

    def __init__(self, namespace_descriptor: int | None = None) -> None:
        self._namespace = namespace_descriptor

    def inside(self) -> AbstractContextManager[None]:
        """The calling thread is in the machine's network namespace for a while."""
        return nullcontext() if self._namespace is None else namespace.inside(self._namespace)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a program here; it dies with us."""
        parent = os.getpid()

        # a KeyboardInterrupt that hits the fork itself is swallowed: the hooks around it may not raise
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)

        def become() -> None:
            die_with(parent)
            if self._namespace is not None:
                namespace.setns(self._namespace)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        try:
            return subprocess.Popen(
                argv,
                env=env,
                pass_fds=pass_fds,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=become,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def fork(self, function: Function, connection: Connection, *, imports: str = "") -> Forked:
        """Run a function with its end of a connection here, in a process of its own; it must be importable by name.

        `imports`: another module that it needs, which is imported once for all processes.
        """
        if self._namespace is not None:
            return FORKS.fork(function, connection, self._namespace, imports)
        here = namespace.open_own()
        try:
            return FORKS.fork(function, connection, here, imports)
        finally:
            os.close(here)

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Run a function here, in a process of its own; it must be importable by name, its values picklable."""
        return Call(*self._send_off(function, args, kwargs))

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function here and wait for what it returns (60 s at most). Raises `CallFailedError`."""
        return self.begin(function, *args, **kwargs).result()

    def converse(
        self, function: Callable[P, Generator[T, S, None]], *args: P.args, **kwargs: P.kwargs
    ) -> Conversation[T, S]:
        """Run a generator here, as far as its first value."""
        return Conversation(*self._send_off(function, args, kwargs))

    def _send_off(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Forked, Connection, str]:
        ours, theirs = Pipe()
        with theirs:
            process = self.fork(call.answer, theirs, imports=function.__module__)
        ours.send((function, args, kwargs))
        return process, ours, f"{function.__module__}.{function.__qualname__}"


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0, what: str = "the condition") -> float:
    """Seconds until the condition held, asked every 10 ms. Raises `TimeoutError`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what} did not hold within {timeout_s:g} s")
        time.sleep(0.01)
    return time.monotonic() - start
