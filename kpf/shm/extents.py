"""Gives out extents of an arena: a buddy allocator. Pure, used by the master only."""

MIN_ORDER = 2


class Extents:
    """An arena of 2**`order` units. Extents are powers of two, at least 4; freed ones merge with their buddies."""

    def __init__(self, order: int) -> None:
        self._order = order
        self._free: list[set[int]] = [set() for _ in range(order + 1)]
        self._free[order].add(0)

    def take(self, length: int) -> int | None:
        """The offset of a free extent of at least `length` units, None if there is none."""
        wanted = order_of(length)
        for order in range(wanted, self._order + 1):
            if self._free[order]:
                break
        else:
            return None
        offset = self._free[order].pop()
        for smaller in range(order - 1, wanted - 1, -1):
            self._free[smaller].add(offset + (1 << smaller))
        return offset

    def reserve(self, offset: int, length: int) -> None:
        """Take the extent that `take(length)` gave before, in another life. Raises ValueError if it is not free."""
        wanted = order_of(length)
        for order in range(wanted, self._order + 1):
            start = offset & ~((1 << order) - 1)
            if start in self._free[order]:
                break
        else:
            raise ValueError(f"{length} units at {offset} are not free")
        if offset & ((1 << wanted) - 1):
            raise ValueError(f"no extent of {length} units begins at {offset}")
        self._free[order].remove(start)
        for smaller in range(order - 1, wanted - 1, -1):
            half = 1 << smaller
            self._free[smaller].add(start if offset & half else start + half)
            start += offset & half

    def give(self, offset: int, length: int) -> None:
        """Take back what `take(length)` gave."""
        order = order_of(length)
        while order < self._order and offset ^ (1 << order) in self._free[order]:
            self._free[order].remove(offset ^ (1 << order))
            offset &= ~(1 << order)
            order += 1
        self._free[order].add(offset)


def order_of(length: int) -> int:
    """Of the smallest extent that holds so many units: its size is 2**order, at least 4."""
    return max((length - 1).bit_length(), MIN_ORDER)
