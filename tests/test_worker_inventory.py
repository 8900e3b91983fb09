"""What a worker tells of its sessions when it is asked."""

import socket
import threading
from collections import Counter
from contextlib import ExitStack

from kpf.net import channel
from kpf.net.messages import Tell, Told
from kpf.worker.inventory import MOST
from tests.worker_driver import BlackHole, Node, Server, ask, connect, echo, eventually, node


def all_told(world: Node, frontends: tuple[int, ...] = (), address: str = "") -> list[Told]:
    answers, start = list[Told](), 0
    while not answers or start:
        question = Tell(world.next(), start, frontends, address)
        channel.send(world.workers[0].channel, question)
        answer, _ = channel.receive(world.workers[0].channel)
        assert isinstance(answer, Told)
        assert answer.number == question.number
        answers.append(answer)
        start = answer.following
    return answers


def merged(world: Node, frontends: tuple[int, ...] = (), address: str = "") -> Told:
    """As if it was one answer."""
    answers = all_told(world, frontends, address)
    columns = ("frontends", "clients", "portals", "endpoints", "states", "ages_ms", "bytes_in", "bytes_out")
    joined = {name: tuple(one for answer in answers for one in getattr(answer, name)) for name in columns}
    return Told(0, 0, **joined)


def clients(answers: list[Told]) -> list[str]:
    return [client for answer in answers for client in answer.clients]


def name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_sessions_are_told_with_what_the_kernel_has_counted() -> None:
    with node() as world, Server(echo) as first, Server(echo, host="::1") as second, ExitStack() as stack:
        frontends = [
            world.frontend([first.at]),
            world.frontend([second.at], host="::1"),
        ]
        socks = [stack.enter_context(connect(target)) for _, target in frontends]
        for sock in socks:
            assert ask(sock)
        answer = merged(world)
        assert answer.clients == tuple(map(name, socks))
        assert answer.frontends == tuple(slot for slot, _ in frontends)
        assert answer.endpoints == tuple(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in (first.at, second.at)
        )
        assert answer.states == ("open", "open")
        assert answer.bytes_in == answer.bytes_out
        assert answer.bytes_in[0] > 0
        assert all(0 <= age_ms < 60_000 for age_ms in answer.ages_ms)


def test_an_end_is_told_and_is_no_byte() -> None:
    def keep(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass
        is_over.wait(20)

    is_over = threading.Event()
    with node() as world, Server(keep) as server:
        _, target = world.frontend([server.at])
        with connect(target) as sock:
            sock.sendall(b"12345")
            sock.shutdown(socket.SHUT_WR)
            eventually(lambda: merged(world).states == ("half-closed",))
            answer = merged(world)
            assert answer.bytes_in == (5,)
        is_over.set()


def test_who_waits_for_a_dial_is_told_once() -> None:
    with node() as world, BlackHole() as hole, BlackHole() as other:
        _, target = world.frontend([hole.at, other.at])
        with connect(target) as sock:
            eventually(lambda: merged(world).states == ("dialling",))
            alone = world.workers[0].descriptors()
            # a second dial is made beside the first one
            eventually(lambda: world.workers[0].descriptors() > alone)
            answer = merged(world)
            assert answer.clients == (name(sock),)
            assert answer.bytes_out == (0,)


def test_many_are_told_in_slices_and_each_once() -> None:
    count = 3 * MOST
    with node() as world, Server(echo) as server, ExitStack() as stack:
        slot, target = world.frontend([server.at])
        other, elsewhere = world.frontend([server.at])
        socks = [stack.enter_context(connect(target)) for _ in range(count)]
        alone = stack.enter_context(connect(elsewhere))
        eventually(lambda: len(clients(all_told(world))) == count + 1)
        answers = all_told(world)
        assert Counter(clients(answers)) == Counter(map(name, [*socks, alone]))
        assert max(len(answer.clients) for answer in answers) == MOST
        assert clients(all_told(world, (other,))) == [name(alone)]
        assert sorted(clients(all_told(world, (slot, other)))) == sorted(clients(answers))
        assert clients(all_told(world, address=name(socks[7]))) == [name(socks[7])]
        host, port = server.at
        for address in (f"{host}:{port}", "127.0.0.1"):
            assert len(clients(all_told(world, address=address))) == count + 1
        assert clients(all_told(world, (other,), address=name(socks[7]))) == []
        # whoever asks for what is not there
        assert clients(all_told(world, address="192.0.2.1")) == []
        question = Tell(world.next(), 1 << 40)
        channel.send(world.workers[0].channel, question)
        answer, _ = channel.receive(world.workers[0].channel)
        assert isinstance(answer, Told)
        assert (answer.following, answer.clients) == (0, ())
