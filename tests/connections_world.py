"""What a worker says of its sessions, and one that says it when it is asked."""

import asyncio
from collections.abc import Sequence

from kpf.net.messages import Tell, Told


def told(count: int, *, first: int = 0, following: int = 0, frontend: int = 0) -> Told:
    """So many sessions, of clients 192.0.2.1:FIRST and on."""
    return Told(
        number=0,
        following=following,
        frontends=(frontend,) * count,
        clients=tuple(f"192.0.2.1:{first + index}" for index in range(count)),
        portals=("10.96.0.1:80",) * count,
        endpoints=("10.0.0.1:8080",) * count,
        states=("open",) * count,
        ages_ms=(1500,) * count,
        bytes_in=(1,) * count,
        bytes_out=(2,) * count,
    )


class Worker:
    """Gives these answers one after the other; None: it does not answer, an exception: it has ended.

    `asked`: all questions so far.
    """

    def __init__(self, answers: Sequence[Told | Exception | None], *, pid: int = 100) -> None:
        self.pid = pid
        self.asked: list[Tell] = []
        self._answers = list(answers)

    def send(self, question: Tell) -> "asyncio.Future[Told | None]":
        self.asked.append(question)
        future: asyncio.Future[Told | None] = asyncio.get_running_loop().create_future()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        return future
