"""A Service of a thousand endpoints of which none, or hardly any, is there."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kpf.shm.layout import Reason
from kpf.shm.region import monotonic_ms
from tests.worker_driver import Greeter, Node, Target, connect, eventually, node, receive_all, refusing

MEMBERS, CLIENTS = 1000, 200


def absent(number: int) -> list[Target]:
    """Addresses that refuse."""
    port = refusing()[1]
    return [(f"127.1.{index >> 8}.{index & 255}", port) for index in range(number)]


class Watch:
    """Looks at a worker's heartbeat all the time: `oldest_ms` is the oldest one that was seen."""

    def __init__(self, made: Node) -> None:
        self._made = made
        self._stop = threading.Event()
        self.oldest_ms = 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.002):
            self.oldest_ms = max(self.oldest_ms, monotonic_ms() - self._made.directory.worker(0).heartbeat_ms)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)


def try_once(at: Target) -> int | None:
    """What the server said; None: reset."""
    try:
        with connect(at) as sock:
            return receive_all(sock)[0]
    except ConnectionResetError:
        return None


def test_a_thousand_that_refuse_do_not_hold_up_a_worker(figure: Callable[[str], None]) -> None:
    with node() as made, ThreadPoolExecutor(CLIENTS) as clients:
        slot, at = made.frontend(absent(MEMBERS))
        assert try_once(at) is None
        watch = Watch(made)
        began_s = time.monotonic()
        # the first of them meet members that nobody has met; all others, that all are ejected
        answers = Counter(clients.map(lambda _: try_once(at), range(4 * CLIENTS)))
        took_s = time.monotonic() - began_s
        watch.stop()
        assert answers == {None: 4 * CLIENTS}
        view = made.directory.frontend(slot)
        figure(
            f"{MEMBERS} members that refuse, {4 * CLIENTS} connections of {CLIENTS} clients: reset in {took_s:.2f} s, "
            f"{view.retries} retries, oldest heartbeat {watch.oldest_ms} ms"
        )
        assert view.failed[Reason.REFUSED] == 4 * CLIENTS + 1
        assert watch.oldest_ms <= 500
        eventually(made.is_quiet)


def test_three_that_live_among_a_thousand_serve_everybody_in_turn(figure: Callable[[str], None]) -> None:
    with Greeter(3) as servers, node() as made, ThreadPoolExecutor(CLIENTS) as clients:
        slot, at = made.frontend([*absent(MEMBERS - 3), *servers.at])
        assert try_once(at) is not None
        watch = Watch(made)
        answers = Counter(clients.map(lambda _: try_once(at), range(CLIENTS)))
        assert None not in answers
        # all others are ejected by now, for a second
        servers.counts[:] = [0] * 3
        began_s = time.monotonic()
        answers = Counter(clients.map(lambda _: try_once(at), range(300)))
        took_s = time.monotonic() - began_s
        watch.stop()
        figure(f"3 that live among {MEMBERS}: 300 connections in {took_s:.2f} s, oldest heartbeat {watch.oldest_ms} ms")
        assert answers == {0: 100, 1: 100, 2: 100}
        assert watch.oldest_ms <= 500
        assert not any(made.directory.frontend(slot).failed.values())
