"""Messages and descriptors between master and worker; listening sockets and steering."""

import dataclasses
import os
import resource
import socket
from array import array
from collections.abc import Iterator

import orjson
import pytest

from kpf.net import channel, sockets
from kpf.net.channel import MAX_DESCRIPTORS, ChannelError, Message, NoRoomError
from kpf.net.handover import (
    HANDOVER,
    LOCK,
    MASTER,
    MEMORY,
    PROTOCOL,
    WORKER,
    Ask,
    Complete,
    Left,
    Offer,
    Pause,
    Paused,
    Received,
    Refusal,
    Servers,
    Sockets,
    Taken,
)
from kpf.net.messages import Close, Configure, Done, Drain, Listen, NoRoom, Ready, Reset

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "message",
    [
        Close(4, (1, 65_535)),
        Close(5, tuple(range(65_535, 65_535 - 8192, -1))),
        Drain(6),
        Reset(7, ("192.0.2.1", "2001:db8::1")),
        Ready(7, 65536, "none"),
        Done(8),
        NoRoom(10),
        Listen(9, ()),
        Ask(1, "1.2.3", (4, 2**64 - 1)),
        Refusal("another network namespace"),
        Offer(1, "1.2.3", MASTER, 7, 3, 4, 0, 0, True, 123_456, ()),
        *(Received(), Complete(), Pause(), Paused(), Taken(), Left()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_come_as_they_went(pair: Pair, message: Message) -> None:
    channel.send(pair[0], message)
    assert channel.receive(pair[1]) == (message, [])


def test_descriptors_come_in_order(pair: Pair) -> None:
    before = open_descriptors()
    sent = [os.memfd_create(str(number)) for number in range(MAX_DESCRIPTORS)]
    channel.send(pair[0], Listen(1, tuple(range(MAX_DESCRIPTORS))), sent)
    channel.send(pair[0], Configure(2, 0, 1, 65534, 65534, 30.0), sent[:1])
    message, descriptors = channel.receive(pair[1])
    assert message == Listen(1, tuple(range(MAX_DESCRIPTORS)))
    assert [os.stat(one).st_ino for one in descriptors] == [os.stat(one).st_ino for one in sent]
    assert not any(os.get_inheritable(one) for one in descriptors)
    message, (one,) = channel.receive(pair[1])
    assert message == Configure(2, 0, 1, 65534, 65534, 30.0)
    for descriptor in (*sent, *descriptors, one):
        os.close(descriptor)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("message", "number"),
    [
        (Configure(1, 0, 8, 0, 0, 1.0, 3, 2, (MEMORY, HANDOVER)), 2),
        (Offer(PROTOCOL, "", WORKER, 7, 3, 8, 2, 100, True, 5, (MEMORY,)), 1),
        (Offer(PROTOCOL, "", MASTER, 7, 3, 8, 0, 0, True, 5, (MEMORY, LOCK, HANDOVER)), 3),
        (Sockets(7, (65_535, 0)), 2),
        (Servers(("health", "metrics", "default/web")), 3),
    ],
)
def test_messages_bring_as_many_descriptors_as_they_name(pair: Pair, message: Message, number: int) -> None:
    channel.send(pair[0], message, [0] * number)
    received, descriptors = channel.receive(pair[1])
    assert received == message
    assert len(descriptors) == number
    for one in descriptors:
        os.close(one)
    with pytest.raises(ChannelError):
        channel.send(pair[0], message, [0] * (number - 1))


def test_what_a_later_version_adds_is_passed_over(pair: Pair) -> None:
    pair[0].send(b'["Ask", {"protocol": 1, "version": "2", "namespace": [1, 2], "more": {"a": 1}}]')
    assert channel.receive(pair[1]) == (Ask(1, "2", (1, 2)), [])
    offer = Offer(PROTOCOL, "2", WORKER, 7, 3, 8, 2, 100, True, 5, ())
    pair[0].send(orjson.dumps(("Offer", {**dataclasses.asdict(offer), "more": None})))
    assert channel.receive(pair[1]) == (offer, [])


def test_a_message_of_another_protocol_says_so_whatever_else_it_says(pair: Pair) -> None:
    pair[0].send(b'["Ask", {"protocol": 2, "version": 7, "namespace": "net"}]')
    assert channel.receive(pair[1]) == (Ask(2), [])


@pytest.mark.parametrize("message", [Listen(1, (1, 2)), Drain(1), Configure(1, 0, 1, 0, 0, 1.0)])
def test_a_wrong_number_of_descriptors_is_not_sent(pair: Pair, message: Message) -> None:
    numbers = {Listen: 1, Drain: 1, Configure: 0}[type(message)]
    with pytest.raises(ChannelError):
        channel.send(pair[0], message, [0] * numbers)


def test_too_long_a_message_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ChannelError):
        channel.send(pair[0], Close(1, tuple(range(20_000))))


@pytest.mark.parametrize(
    "frame",
    [
        b"x",
        b"[1, 2]",
        b"[" * 60_000,
        b'["Nothing", {}]',
        b'[["Drain"], {}]',
        b'["Drain", {}]',
        b'["Drain", {"number": 1, "more": 2}]',
        b'["Drain", {"number": true}]',
        b'["Drain", {"number": 1e400}]',
        b'["Drain", {"number": 100000000000000000000}]',
        b'["Drain", [1]]',
        b'["Done"]',
        b'["Listen", {"number": 1, "frontends": 5}]',
        b'["Listen", {"number": 1, "frontends": [1, "2"]}]',
        b'["Sockets", {"index": 0, "frontends": null}]',
        b'["Ask", {}]',
        b'["Ask", {"protocol": "1"}]',
        b'["Ask", {"protocol": 1, "namespace": {"a": 1}}]',
        b'["Ask", "protocol"]',
        b'["Offer", {"protocol": 1}]',
        b"\xff" * 60_000,
    ],
)
def test_what_is_no_message_is_fatal(pair: Pair, frame: bytes) -> None:
    pair[0].send(frame)
    with pytest.raises(ChannelError) as caught:
        channel.receive(pair[1])
    assert len(str(caught.value)) < 500


def test_a_miscounted_frame_is_fatal_and_leaks_nothing(pair: Pair) -> None:
    before = open_descriptors()
    frame = b'["Listen", {"number": 1, "frontends": [1, 2]}]'
    pair[0].sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [0, 0, 0]))])
    with pytest.raises(ChannelError):
        channel.receive(pair[1])
    assert open_descriptors() == before


def test_descriptors_cut_off_at_the_limit_are_asked_for_again_and_leak_nothing(pair: Pair) -> None:
    before = open_descriptors()
    channel.send(pair[0], Listen(1, tuple(range(200))), [0] * 200)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 50, limits[1]))
    try:
        with pytest.raises(NoRoomError) as caught:
            channel.receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.number == 1
    assert open_descriptors() == before


def test_nothing_there_and_nobody_there_are_two_things(pair: Pair) -> None:
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.receive(pair[1])
    pair[0].close()
    with pytest.raises(EOFError):
        channel.receive(pair[1])
    with pytest.raises(BrokenPipeError):
        channel.send(pair[1], Done(1))


def test_leaving_with_something_unread_is_the_end_too(pair: Pair) -> None:
    channel.send(pair[1], Done(1))
    pair[0].close()
    with pytest.raises(EOFError):
        channel.receive(pair[1])


# listening sockets


def connect(address: tuple[str, int], number: int) -> list[socket.socket]:
    return [socket.create_connection(address, timeout=5) for _ in range(number)]


def accepted(listener: socket.socket) -> list[socket.socket]:
    taken = []
    while True:
        try:
            taken.append(listener.accept()[0])
        except BlockingIOError:
            return taken


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_new_connections_go_to_healthy_sockets_only(address: str) -> None:
    group = [sockets.listening_socket(address, 0, backlog=500)]
    port = group[0].getsockname()[1]
    group += [sockets.listening_socket(address, port, backlog=500) for _ in range(3)]

    def spread(number: int) -> list[int]:
        clients = connect((address, port), number)
        taken = [accepted(listener) for listener in group]
        for one in [*clients, *(one for some in taken for one in some)]:
            one.close()
        return [len(some) for some in taken]

    try:
        assert all(spread(400))
        sockets.steer(group[0], [1, 3])
        first, second, third, fourth = spread(400)
        assert (first, third) == (0, 0)
        assert 130 < second < 270
        assert second + fourth == 400
        sockets.steer(group[2], [2])
        assert spread(50) == [0, 0, 50, 0]
        sockets.stop_steering(group[1])
        sockets.stop_steering(group[1])
        assert all(spread(400))
    finally:
        for listener in group:
            listener.close()


def test_accepted_sockets_inherit_what_they_need() -> None:
    with sockets.listening_socket("127.0.0.1", 0, backlog=5) as listener, connect(listener.getsockname(), 1)[0]:
        (one,) = accepted(listener)
        with one:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == sockets.KEEPALIVE_IDLE_S


def test_a_port_with_a_listener_is_not_free_even_if_one_could_join() -> None:
    for address in ("127.0.0.1", "::1"):
        with sockets.listening_socket(address, 0, backlog=5) as listener:
            port = listener.getsockname()[1]
            assert not sockets.port_is_free(address, port)
        assert sockets.port_is_free(address, port)
    with pytest.raises(OSError, match="assign"):
        sockets.port_is_free("192.0.2.1", 80)


def test_the_two_families_do_not_get_in_each_others_way() -> None:
    with sockets.listening_socket("::", 0, backlog=5) as listener:
        port = listener.getsockname()[1]
        assert sockets.port_is_free("0.0.0.0", port)
        with sockets.listening_socket("0.0.0.0", port, backlog=5):
            pass


def test_a_listener_that_cannot_be_leaks_nothing() -> None:
    before = open_descriptors()
    with pytest.raises(OSError, match="assign"):
        sockets.listening_socket("192.0.2.1", 80, backlog=5, address_may_go=True)
    assert open_descriptors() == before
