"""The time of this iteration of the loop, and when there is something to do without an event."""


class Clock:
    """`now_ms`: CLOCK_MONOTONIC when this iteration's events came. `due_ms`: when to look around, at the latest.

    `is_restless`: look around after every iteration, for as long as something unusual goes on. `iteration`: counts
    them.
    """

    __slots__ = ("due_ms", "is_restless", "iteration", "now_ms")

    def __init__(self, now_ms: int) -> None:
        self.now_ms = self.due_ms = now_ms
        self.is_restless = False
        self.iteration = 0

    def at(self, time_ms: int) -> None:
        """Look around at this time, if not sooner."""
        if time_ms < self.due_ms:
            self.due_ms = time_ms
