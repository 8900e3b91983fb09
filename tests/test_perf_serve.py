"""The backends of the load scripts, spoken to by hand."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kpf.lab.machine import Machine
from perf import own

ADDRESSES = [("127.0.0.1", 18080), ("::1", 18080)]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with own.backends(Machine(), ADDRESSES):
        yield


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.create_connection(ADDRESSES[0], timeout=5) as client:
        yield client


def _receive(client: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        data = client.recv(length - len(received))
        assert data, f"the end after {received!r}"
        received += data
    return received


def _name(name: str) -> bytes:
    return OK % 128 + name.encode().ljust(127) + b"\n"


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_name_has_128_bytes(address: tuple[str, int]) -> None:
    expected = _name("127.0.0.1:18080" if address[0] == "127.0.0.1" else "[::1]:18080")
    with socket.create_connection(address, timeout=5) as client:
        for _ in range(2):
            client.sendall(GET)
            assert _receive(client, len(expected)) == expected


def test_pipelined_requests_are_answered_in_order(client: socket.socket) -> None:
    put = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    client.sendall(GET + GET.replace(b"/ ", b"/bytes/3 ") + put + GET)
    expected = _name("127.0.0.1:18080") + OK % 3 + bytes(3) + OK % 2 + b"4\n" + _name("127.0.0.1:18080")
    assert _receive(client, len(expected)) == expected


def test_a_head_may_come_in_pieces(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(GET)):
        client.sendall(GET[place : place + 1])
    expected = _name("127.0.0.1:18080")
    assert _receive(client, len(expected)) == expected


def test_many_bytes_are_all_sent_also_to_a_reader_that_waits(client: socket.socket) -> None:
    length = 20_000_000
    client.sendall(GET.replace(b"/ ", b"/bytes/%d " % length) + GET)
    head = OK % length
    assert _receive(client, len(head)) == head
    assert not any(_receive(client, length))
    assert _receive(client, 15) == b"HTTP/1.1 200 OK"


def test_a_body_is_read_and_counted(client: socket.socket) -> None:
    length = 5_000_000
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)
    client.sendall(bytes(length) + GET)
    expected = OK % 8 + b"%d\n" % length + _name("127.0.0.1:18080")
    assert _receive(client, len(expected)) == expected


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
def test_the_server_closes_when_it_is_asked_to(client: socket.socket, request_: bytes) -> None:
    client.sendall(request_)
    answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.endswith(b"Connection: close")
    assert len(body) == 128


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 8192 + b"\r\n\r\n", b"431"),
        (b"x" * 8193, b"431"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"501"),
    ],
)
def test_a_bad_head_is_answered_and_ends_the_connection(client: socket.socket, request_: bytes, status: bytes) -> None:
    client.sendall(request_)
    answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.split(b" ")[1] == status


@pytest.mark.parametrize(("line", "status"), [(b"GET /none", b"404"), (b"GET /bytes/x", b"404"), (b"HEAD /", b"405")])
def test_a_request_that_cannot_be_served_keeps_the_connection(
    client: socket.socket, line: bytes, status: bytes
) -> None:
    client.sendall(line + b" HTTP/1.1\r\n\r\n" + GET)
    expected = b"HTTP/1.1 " + status
    assert _receive(client, len(expected)) == expected
    received = b""
    while not received.endswith(_name("127.0.0.1:18080")):
        received += _receive(client, 1)


@pytest.mark.parametrize("wrong", ["127.0.0.1", "192.0.2.1:80"])
def test_an_address_that_cannot_be_served_is_wrong_usage(wrong: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "perf.serve", wrong], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "error: " in ended.stderr
