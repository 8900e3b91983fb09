"""Readers that are slower than what is sent to them."""

import math
import time
from collections.abc import Sequence

from perf.load.client import TICK_S, Answers, WrongAnswerError, dial, ended, get, name_of
from perf.load.result import Address, Result, Tally

# small, so that what is not read waits before the client and not in it
RECEIVE_BUFFER = 65536


class _Reader:
    def __init__(self, target: Address, source: str, length: int) -> None:
        self.left = length
        self._request = get(target, f"/bytes/{length}")
        self._length = length
        self._asked = False
        self._head = b""
        self.last_s = time.monotonic()
        self.sock = dial(target, source, receive_buffer=RECEIVE_BUFFER)

    def read(self, count: int) -> int:
        """At most so many bytes of the answer. Raises `BlockingIOError` if there are none, `WrongAnswerError`."""
        if not self._asked:
            self.sock.send(self._request)
            self._asked = True
        data = self.sock.recv(count)
        if not data:
            raise ended(self._head)
        got = len(data) if self.left < self._length else self._begin(data)
        self.left -= got
        return got

    def _begin(self, data: bytes) -> int:
        self._head += data
        lengths = Answers().split(self._head)
        if lengths is None:
            return 0
        if lengths[1] != self._length:
            raise WrongAnswerError("wrong answer")
        return len(self._head) - lengths[0]


def readers(
    target: Address,
    *,
    connections: int,
    bytes_each: int,
    bytes_per_s: float,
    seconds: float | None = None,
    sources: Sequence[str] = ("",),
    stall_s: float = 5.0,
) -> Result:
    """GET /bytes/N on each connection, all at once, read at `bytes_per_s` each, in portions every 0.1 s.

    Until all is read, or for so many `seconds`: then it is no error that more would have come. One that gets nothing
    for `stall_s` has "stalled".
    """
    tally = Tally()
    under_way = []
    for number in range(connections):
        try:
            under_way.append(_Reader(target, sources[number % len(sources)], bytes_each))
        except OSError as error:
            tally.failed(name_of(error))
    portion = max(int(bytes_per_s * TICK_S), 1)
    until_s = math.inf if seconds is None else tally.began_s + seconds
    next_s = tally.began_s
    while under_way and next_s < until_s:
        under_way = [one for one in under_way if _goes_on(one, portion, next_s - stall_s, tally)]
        next_s += TICK_S
        time.sleep(max(next_s - time.monotonic(), 0.0))
    for one in under_way:
        one.sock.close()
    return tally.result()


def _goes_on(one: _Reader, portion: int, stalled_s: float, tally: Tally) -> bool:
    try:
        tally.got(one.read(portion))
        one.last_s = time.monotonic()
        over = one.left <= 0
    except BlockingIOError:
        over = one.last_s < stalled_s
        if over:
            tally.failed("stalled")
    except (OSError, WrongAnswerError) as error:
        over = True
        tally.failed(name_of(error))
    if over:
        one.sock.close()
    return not over
