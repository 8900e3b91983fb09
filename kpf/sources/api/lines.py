"""Cuts a stream of bytes into lines, within bounds. Pure."""


class Lines:
    """A line longer than `limit_bytes` is passed over and counted in `too_long`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends; empty ones are none."""
        first, *others = data.split(b"\n")
        self._hold(first)
        if not others:
            return []
        *middle, last = others
        lines = [self._complete(), *middle]
        self._hold(last)
        return [line for line in lines if line and self._is_short(line)]

    def _hold(self, part: bytes) -> None:
        if self._skipping or not part:
            return
        self._parts.append(part)
        self._held_bytes += len(part)
        if self._held_bytes > self._limit_bytes:
            self._skipping = True
            self.too_long += 1
            self._parts.clear()

    def _complete(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._held_bytes, self._skipping = 0, False
        return line

    def _is_short(self, line: bytes) -> bool:
        if len(line) <= self._limit_bytes:
            return True
        self.too_long += 1
        return False
