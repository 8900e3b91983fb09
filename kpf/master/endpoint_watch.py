"""Looks at the health of endpoints, which workers write into shared memory, and tells the log what becomes of it.

A part at a time: 50,000 members are looked at once a second, 4,096 in a turn of the loop, in 0.12 ms.
An endpoint that is in several lists, of the cluster and of this node, is told of once.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from kpf.master.addresses import shown
from kpf.master.labels import frontend_of
from kpf.model.names import ServicePortName
from kpf.named import Named
from kpf.observe.story import Story
from kpf.shm.ejections import Ejection, Ejections
from kpf.shm.layout import Reason
from kpf.shm.region import Region, monotonic_ms

# all members are looked at once in so long; an ejection lasts a second at least
PERIOD_S = 1.0
AT_A_TIME = 4096
# that are told of in a turn, 20 us each; the others have their turn a period later
NEWS_AT_A_TIME = 256

SHUT_OUT, BACK, LEFT = (
    f"%d more endpoints {what}" for what in ("are shut out", "have answered again", "have left that were shut out")
)
_WORDS = {Reason.REFUSED: "connection refused", Reason.UNREACHABLE: "unreachable", Reason.TIMEOUT: "no answer"}

Key = tuple[ServicePortName, str]


@dataclass(slots=True)
class _Outage:
    """Of an endpoint: the members that have failed, by slot, with their identity."""

    since_ms: int
    members: dict[int, int] = field(default_factory=dict)


class EndpointWatch:
    """`region`: whose frontends have labels."""

    def __init__(self, region: Region, story: Story) -> None:
        self._ejections, self._story = Ejections(region), story
        self._at = 0
        self._outages: dict[Key, _Outage] = {}
        self._keys: dict[int, Key] = {}
        # what had failed of a member before it answered again: by slot, with its identity
        self._before: dict[int, tuple[int, dict[Reason, int]]] = {}

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(self.look())

    def look(self) -> float:
        """At the next part; the seconds until the one after it is due."""
        members = self._ejections.members
        start = self._at if self._at < members else 0
        self._at = stop = min(start + AT_A_TIME, members)
        failed = set(self._ejections.within(start, stop))
        known = [slot for slot in self._keys if start <= slot < stop]
        over = [slot for slot in known if slot not in failed or not self._is_same(slot)]
        for slot in over[:NEWS_AT_A_TIME]:
            self._end(slot, is_same=self._is_same(slot))
        for slot in sorted(failed - self._keys.keys())[:NEWS_AT_A_TIME]:
            self._begin(slot, self._ejections.of(slot))
        self._story.settle()
        return PERIOD_S / max(-(-members // AT_A_TIME), 1)

    def _is_same(self, slot: int) -> bool:
        return self._ejections.identity(slot) == self._outages[self._keys[slot]].members[slot]

    def _begin(self, slot: int, ejection: Ejection) -> None:
        label = self._ejections.label(ejection.frontend)
        if not label or ejection.began_ms is None:
            # it has gone, or answered, since it was looked at
            return
        port, endpoint = key = frontend_of(label).port, shown(ejection.address)
        identity, before = self._before.get(slot, (0, {}))
        known = before if identity == ejection.identity else {}
        outage = self._outages.get(key)
        if outage is None:
            outage = self._outages[key] = _Outage(ejection.began_ms)
            why = max(_WORDS, key=lambda reason: ejection.failures[reason] - known.get(reason, 0))
            reason = Named(_WORDS[why], reason=why.name.lower())
            self._tell(SHUT_OUT, logging.WARNING, port, endpoint, "is shut out: %s", reason)
        outage.members[slot] = ejection.identity
        self._keys[slot] = key

    def _end(self, slot: int, *, is_same: bool) -> None:
        key = port, endpoint = self._keys.pop(slot)
        outage = self._outages[key]
        identity = outage.members.pop(slot)
        if is_same:
            self._before[slot] = identity, self._ejections.failures(slot)
        else:
            self._before.pop(slot, None)
        if outage.members:
            return
        del self._outages[key]
        took_s = round(max(monotonic_ms() - outage.since_ms, 0) / 1000, 1)
        kind, what = (BACK, "answers again, after %s") if is_same else (LEFT, "has left, shut out for %s")
        self._tell(kind, logging.INFO, port, endpoint, what, Named(f"{took_s:.1f} s", seconds=took_s))

    def _tell(self, kind: str, level: int, port: ServicePortName, endpoint: str, what: str, more: Named) -> None:
        keys = {"namespace": port.namespace, "service": port.service, "port": port.port, "endpoint": endpoint}
        who = Named(f"endpoint {endpoint} of {port.short}", **keys)
        self._story.tell(kind, level, f"%s {what}", who, more)
