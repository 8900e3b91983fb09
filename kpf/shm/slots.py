"""Gives out places of one size: slots of frontends and members, affinity tables. Pure, used by the master only."""

from dataclasses import dataclass, field


class CapacityError(Exception):
    """No slot, extent or affinity table is left; nothing has changed."""


@dataclass(slots=True)
class Slots:
    """Indexes below `capacity`: those given back are used first, so that the memory in use stays small."""

    capacity: int
    used: int = 0
    free: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Raises `CapacityError`."""
        if self.free:
            return self.free.pop()
        if self.used == self.capacity:
            raise CapacityError(f"all {self.capacity} places are taken")
        self.used += 1
        return self.used - 1
