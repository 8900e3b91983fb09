"""What goes through: every byte, in order, both ways, and each end of it."""

import hashlib
import random
import selectors
import socket

import pytest

from kpf.lab.clients import Address
from tests.e2e.world import World

SHOP = ("10.96.0.10", 80)


def exchange(target: Address, size: int, pause_at: int) -> tuple[bytes, bytes]:
    """Send so many random bytes, then FIN, reading all the while; the digests of what was sent and what came.

    Nothing is read before `pause_at` bytes are sent, so that buffers on the way fill up.
    """
    payload = random.Random(size).randbytes(size)
    received = hashlib.sha256()
    sent = 0
    with socket.create_connection(target, timeout=10.0) as sock, selectors.DefaultSelector() as selector:
        assert sock.recv(100).endswith(b"\n")
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_WRITE)
        while True:
            ready = selector.select(10.0)
            if not ready:
                raise TimeoutError(f"nothing moved for 10 s, {sent} bytes sent")
            _, events = ready[0]
            if events & selectors.EVENT_WRITE and sent < size:
                sent += sock.send(payload[sent : sent + 65536])
                if sent == size:
                    sock.shutdown(socket.SHUT_WR)
                if sent >= min(pause_at, size):
                    selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if sent < size else 0))
            if events & selectors.EVENT_READ:
                data = sock.recv(1 << 20)
                if not data:
                    return hashlib.sha256(payload).digest(), received.digest()
                received.update(data)


def upload(target: Address, size: int) -> bytes:
    """Send so many bytes and FIN; what comes back after it."""
    with socket.create_connection(target, timeout=10.0) as sock:
        sock.sendall(bytes(size))
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(100)


@pytest.mark.parametrize("size", [1, 65_536, 1_000_003, 20_000_000])
def test_an_echo_is_what_was_sent(world: World, size: int) -> None:
    world.serve("shop", SHOP[0], world.pods([1]))
    with world.lasting:
        sent, received = world.lab.outside.call(exchange, SHOP, size, min(size, 300_000))
    assert sent == received


def test_an_answer_comes_after_the_clients_fin(world: World) -> None:
    world.serve("shop", SHOP[0], world.pods([1], mode="sink"))
    with world.lasting:
        assert world.lab.outside.call(upload, SHOP, 50_000_000) == b"50000000\n"
        assert world.lab.outside.call(upload, SHOP, 0) == b"0\n"
