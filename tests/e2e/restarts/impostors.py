"""Both ends of a handover, played by hand: a successor that fails, and a predecessor that is none."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from kpf import __version__
from kpf.master.conversation import close_all
from kpf.net import channel, credentials
from kpf.net.credentials import network_namespace
from kpf.net.handover import (
    MASTER,
    MEMORY,
    PROTOCOL,
    WORKER,
    Ask,
    Complete,
    Message,
    Offer,
    Pause,
    Received,
    Refusal,
    Sockets,
)

ANSWER_S = 10.0


class Successor:
    """Connects to the handover socket, says what it is told to, and leaves when it is closed."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(str(path))

    def say(self, message: Message) -> None:
        channel.send(self.sock, message)

    def hear(self) -> Message:
        """What comes with it is closed. Raises EOFError, TimeoutError."""
        message, descriptors = channel.receive(self.sock)
        close_all(descriptors)
        assert isinstance(message, Message)
        return message

    def ask(self, *, protocol: int = PROTOCOL, namespace: tuple[int, int] | None = None) -> Message:
        """What is answered."""
        self.say(Ask(protocol, __version__, namespace or network_namespace()))
        return self.hear()

    def take_everything(self) -> None:
        """Up to the last message before it would have to serve."""
        assert isinstance(self.ask(), Offer)
        while not isinstance(self.hear(), Complete):
            self.say(Received())

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def says_nonsense(one: Successor) -> None:
    one.sock.send(b"\0nonsense")


def speaks_another_protocol(one: Successor) -> None:
    answer = one.ask(protocol=PROTOCOL + 1)
    assert isinstance(answer, Refusal)
    assert "protocol" in answer.reason


def is_elsewhere(one: Successor) -> None:
    answer = one.ask(namespace=(1, 1))
    assert isinstance(answer, Refusal)
    assert "another network namespace" in answer.reason


def leaves_without_a_word(_: Successor) -> None:
    pass


def leaves_after_the_question(one: Successor) -> None:
    one.say(Ask(PROTOCOL, __version__, network_namespace()))


def leaves_after_the_offer(one: Successor) -> None:
    one.ask()


def leaves_among_the_sockets(one: Successor) -> None:
    one.ask()
    one.hear()
    one.say(Received())
    one.hear()


def leaves_with_everything(one: Successor) -> None:
    one.take_everything()


def leaves_when_all_are_paused(one: Successor) -> None:
    one.take_everything()
    one.say(Pause())
    one.hear()


def speaks_out_of_turn(one: Successor) -> None:
    one.ask()
    one.say(Pause())
    with suppress(EOFError):
        while True:
            one.hear()


FAILURES: Sequence[Callable[[Successor], None]] = (
    says_nonsense,
    speaks_another_protocol,
    is_elsewhere,
    leaves_without_a_word,
    leaves_after_the_question,
    leaves_after_the_offer,
    leaves_among_the_sockets,
    leaves_with_everything,
    leaves_when_all_are_paused,
    speaks_out_of_turn,
)


def _offer(role: str) -> Offer:
    return Offer(PROTOCOL, __version__, role, os.getpid(), 1, 2, 0, 0, True, 0, (MEMORY,))


def _memory(size: int) -> int:
    memory = os.memfd_create("impostor")
    os.ftruncate(memory, size)
    return memory


def _offers(role: str, descriptor: int, sock: socket.socket, *sockets: socket.socket) -> None:
    channel.send(sock, _offer(role), [descriptor])
    os.close(descriptor)
    if sockets:
        channel.send(sock, Sockets(0, tuple(range(len(sockets)))), [one.fileno() for one in sockets])
        for one in sockets:
            one.close()
        channel.receive(sock)
    channel.send(sock, Complete())
    with suppress(EOFError, channel.ChannelError):
        channel.receive(sock)


def _pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


# what they do with who asks; the first argument is whom they play
LIES: dict[str, Callable[[str, socket.socket], object]] = {
    "nonsense": lambda _, sock: sock.send(b"\0nonsense"),
    "nothing, and leaves": lambda _, sock: sock.close(),
    "no memory, but a pipe": lambda role, sock: _offers(role, _pipe(), sock),
    "empty memory": lambda role, sock: _offers(role, _memory(0), sock),
    "memory of something else": lambda role, sock: _offers(role, _memory(1 << 20), sock),
    "sockets that do not listen": lambda role, sock: _offers(role, _memory(1 << 20), sock, socket.socket()),
}


@contextmanager
def predecessor(path: Path, lie: Callable[[str, socket.socket], object], *, is_master: bool) -> Iterator[None]:
    """Is there inside of the context, and lies to everybody who asks; a master has kpf's lock, too."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock,
    ):
        if is_master:
            lock.bind(credentials.NAMES[0])
            lock.listen(8)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(8)
        thread = threading.Thread(target=_answer, args=(listener, lie, MASTER if is_master else WORKER))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(ANSWER_S)


def _answer(listener: socket.socket, lie: Callable[[str, socket.socket], object], role: str) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, suppress(OSError, EOFError):
            sock.settimeout(ANSWER_S)
            channel.receive(sock)
            lie(role, sock)
