"""A double of `Kernel` in memory, held to the same contract (tests/test_nft_contract.py)."""

import errno

from kpf.model.rules import Rules
from kpf.nft import batch, forwards, schema
from kpf.nft.elements import Elements, all_elements
from kpf.nft.kernel import TransactionFailedError
from kpf.nft.values import Value


class FakeKernel:
    """`elements` is None while there is no table. `fail_next` makes the next transaction fail."""

    def __init__(self) -> None:
        self.elements: Elements | None = None
        self.fail_next = False
        self.transactions = 0
        self._chains: frozenset[str] = frozenset()

    async def replace(self, rules: Rules) -> None:
        """As `Kernel.replace`, at once. Raises `TransactionFailedError` if it is told to fail."""
        self._begin()
        self.elements = dict(all_elements(rules))
        self._chains = _chains(rules)

    async def update(self, old: Rules, new: Rules) -> None:
        """As `Kernel.update`. Raises `TransactionFailedError`, also (ENOENT, EEXIST) for a table that is not `old`."""
        gone, come = batch.changes(old, new)
        if old == new:
            return
        self._begin()
        if self.elements is None:
            raise TransactionFailedError(errno.ENOENT, "there is no table")
        missing = gone.keys() - self.elements.keys()
        remaining = {key: value for key, value in self.elements.items() if key not in gone}
        if missing or any(remaining.get(key, value) != value for key, value in come.items()):
            raise TransactionFailedError(errno.ENOENT if missing else errno.EEXIST, "the table is not what it was")
        self.elements = remaining | come
        self._chains = _chains(new)

    def distrust(self) -> None:
        """Without effect: nobody else touches a table in memory."""

    async def delete(self) -> None:
        """As `Kernel.delete`. Raises `TransactionFailedError` if it is told to fail."""
        self._begin()
        self.elements, self._chains = None, frozenset()

    async def chains(self) -> frozenset[str]:
        """The names of those that `Kernel` would have; none without a table."""
        return self._chains

    async def contents(self) -> dict[str, dict[bytes, Value]]:
        """As `Kernel.contents`. Raises FileNotFoundError while there is no table."""
        if self.elements is None:
            raise FileNotFoundError(errno.ENOENT, "there is no table")
        found: dict[str, dict[bytes, Value]] = {one.name: {} for one in schema.sets()}
        for (name, key), value in self.elements.items():
            found[name][key] = value
        return found

    def close(self) -> None:
        """Without effect: there is no socket."""

    def _begin(self) -> None:
        if self.fail_next:
            self.fail_next = False
            raise TransactionFailedError(errno.EBUSY, "told to fail")
        self.transactions += 1


def _chains(rules: Rules) -> frozenset[str]:
    static = (chain.name for chain in schema.chains(rules))
    return frozenset(static).union(forwards.names(rules.forwards, rules.guards))
