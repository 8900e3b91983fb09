"""Misbehaviour that lasts: which requests it strikes, and how often. Pure."""

from dataclasses import dataclass
from typing import Literal

Fault = Literal["answer", "silence", "stall", "forbid", "absent", "cut", "short"]
"""What goes wrong with a request.

answer: a given status and body instead of the right ones. silence: nothing is ever answered. stall: a watch begins, and
nothing comes. forbid: 403. absent: 404, as if the server did not know the resource. cut: the body ends early.
short: a watch is ended after a while.
"""

Ending = Literal["end", "close", "reset"]
"""How an answer ends: as it should, by a FIN before its end, by a reset."""


@dataclass(slots=True)
class Rule:
    """`resource` (plural), `verb` (list, watch, create, get): None for all. `left`: how many requests, None for all."""

    fault: Fault
    resource: str | None = None
    verb: str | None = None
    left: int | None = None
    code: int = 500
    retry_after_s: int | None = None
    body: str | None = None
    after_bytes: int = 0
    after_s: float = 0.0
    ending: Ending = "close"

    def strikes(self, resource: str, verb: str) -> bool:
        return self.resource in (None, resource) and self.verb in (None, verb)


class Faults:
    """The rules in force; the oldest that fits a request is the one that strikes it."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        self._rules.append(rule)

    def lift(self, fault: Fault | None = None) -> None:
        """Those of that kind, or all."""
        self._rules = [] if fault is None else [rule for rule in self._rules if rule.fault != fault]

    def find(self, fault: Fault, resource: str, verb: str) -> Rule | None:
        """The rule that holds now, without counting."""
        return next((rule for rule in self._rules if rule.fault == fault and rule.strikes(resource, verb)), None)

    def take(self, fault: Fault, resource: str, verb: str) -> Rule | None:
        """The rule that strikes this request: it counts."""
        rule = self.find(fault, resource, verb)
        if rule and rule.left is not None:
            rule.left -= 1
            if not rule.left:
                self._rules.remove(rule)
        return rule
