"""A double of `Kernel` in memory, held to the same contract (tests/test_nft_contract.py).

As the kernel does, it refuses what refers to something that is not there: an element of no set, and a chain or a set
that neither an element nor a rule finds.
"""

import errno
import re
from collections.abc import Iterator

from kpf.model.rules import Rules, Verdict
from kpf.nft import batch, forwards, schema
from kpf.nft.elements import Elements, Entry, all_elements
from kpf.nft.kernel import TransactionFailedError
from kpf.nft.table import Table
from kpf.nft.values import Goto, Jump

# maps of a rule are no named ones
SET_OF_RULE = re.compile(r"@(?!__)(\S+)")
CHAIN_OF_RULE = re.compile(r"(?:goto|jump) ([^\s,]+)")


class FakeKernel:
    """`elements` is None while there is no table. `fail_next` makes the next transaction fail."""

    def __init__(self) -> None:
        self.table = Table()
        self.elements: Elements | None = None
        self.fail_next = False
        self.transactions = 0
        self._chains: frozenset[str] = frozenset()

    async def replace(self, rules: Rules) -> None:
        with self.table.transaction(rules, anew=True):
            self._begin()
            self._commit(dict(all_elements(rules)), rules)

    async def update(self, old: Rules, new: Rules) -> None:
        with self.table.transaction(new):
            gone, come = batch.changes(old, new)
            if old == new:
                return
            self._begin()
            if self.elements is None:
                raise TransactionFailedError(errno.ENOENT, "there is no table")
            missing = gone.keys() - self.elements.keys()
            remaining = {key: entry for key, entry in self.elements.items() if key not in gone}
            if missing or any(remaining.get(key, entry) != entry for key, entry in come.items()):
                raise TransactionFailedError(errno.ENOENT if missing else errno.EEXIST, "the table is not what it was")
            self._commit(remaining | come, new)

    async def delete(self) -> None:
        with self.table.transaction(None):
            self._begin()
            self.elements, self._chains = None, frozenset()

    async def chains(self) -> frozenset[str]:
        return self._chains

    async def contents(self) -> dict[str, dict[bytes, Entry]]:
        if self.elements is None:
            raise FileNotFoundError(errno.ENOENT, "there is no table")
        found: dict[str, dict[bytes, Entry]] = {one.name: {} for one in schema.sets()}
        for (name, key), entry in self.elements.items():
            found[name][key] = entry
        return found

    def close(self) -> None:
        pass

    def _begin(self) -> None:
        if self.fail_next:
            self.fail_next = False
            raise TransactionFailedError(errno.EBUSY, "told to fail")
        self.transactions += 1

    def _commit(self, elements: Elements, rules: Rules) -> None:
        parts = [forwards.parts(key, one, identifier=0, start=0) for key, one in rules.forwards.items()]
        chains = [*schema.chains(rules), *(one for part in parts for one in part.chains)]
        chains += [forwards.sources_chain(*guarded) for guarded in rules.source_ranges.items()]
        names = frozenset(chain.name for chain in chains)
        sets = {one.name for one in (*schema.sets(), *(one for part in parts for one in part.sets))}
        rule_texts = [statement.text for chain in chains for rule in chain.rules for statement in rule]
        named = {name for text in rule_texts for name in SET_OF_RULE.findall(text)} | {name for name, _ in elements}
        led_to = {name for text in rule_texts for name in CHAIN_OF_RULE.findall(text)} | {*_led_to(elements)}
        missing = (named - sets) | (led_to - names)
        if missing:
            raise TransactionFailedError(errno.ENOENT, f"there is no {', '.join(sorted(missing))}")
        self.elements, self._chains = elements, names


def _led_to(elements: Elements) -> Iterator[str]:
    """Chains that elements name."""
    for value, _ in elements.values():
        if isinstance(value, Goto | Jump):
            yield value.chain
        elif value is Verdict.REFUSE:
            yield schema.REFUSE
