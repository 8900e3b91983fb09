"""A program of the lab that runs on a machine beside the test, and is told and asked over a connection: every load."""

from multiprocessing.connection import Pipe
from typing import Any, Self

from kpf.lab.forks import Function
from kpf.lab.machine import CallFailedError, Machine


class Beside:
    """A function that runs on a machine while the context is open, with a connection to us.

    `task` is the first thing that it is sent. Whoever asks waits `answer_s` at most. What is asked of it raises
    `CallFailedError` if it has died, or does not answer in time.
    """

    def __init__(self, machine: Machine, function: Function, task: object, *, answer_s: float) -> None:
        self._name, self._answer_s = function.__module__.rpartition(".")[2], answer_s
        self._connection, theirs = Pipe()
        with theirs:
            self._process = machine.fork(function, theirs)
        self._connection.send(task)

    def close(self) -> None:
        """Kill it, whatever it is doing: nothing is reported."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _order(self, order: object) -> None:
        try:
            self._connection.send(order)
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> Any:
        if not self._connection.poll(self._answer_s):
            raise CallFailedError(f"{self._name}: no answer within {self._answer_s:g} s")
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None

    def _died(self) -> CallFailedError:
        return CallFailedError(f"{self._name}: ended with status {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
