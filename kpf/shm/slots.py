"""Gives out places of one size: slots of frontends and members, affinity tables. Pure, used by the master only."""

from collections.abc import Collection
from dataclasses import dataclass, field


class CapacityError(Exception):
    """No slot, extent or affinity table is left; nothing has changed."""


@dataclass(slots=True)
class Slots:
    """Indexes below `capacity`: those given back are used first, so that the memory in use stays small."""

    capacity: int
    used: int = 0
    free: list[int] = field(default_factory=list)

    @classmethod
    def with_free(cls, capacity: int, used: int, free: Collection[int]) -> "Slots":
        """As they were left: of those below `used`, these are free."""
        return cls(capacity, used, sorted(free, reverse=True))

    def take(self) -> int:
        """Raises `CapacityError`."""
        if self.free:
            return self.free.pop()
        if self.used == self.capacity:
            raise CapacityError(f"all {self.capacity} places are taken")
        self.used += 1
        return self.used - 1
