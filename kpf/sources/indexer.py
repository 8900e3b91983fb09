"""The values in force, by kind and name, and the snapshots that are made of them. Pure.

Rules: an object whose newest version is malformed stays as it last was, for as long as there is a version of it; a
value that does not change keeps its identity over snapshots, and so do the slices of a Service as a whole; each
snapshot says which Services may differ from the one before it.
"""

from collections.abc import Iterable, Sequence
from itertools import count
from operator import attrgetter

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import IPNetwork, ObjectName
from kpf.model.service import Service
from kpf.model.snapshot import Changes, Node, Problem, ServiceCIDR, Snapshot
from kpf.sources.decode import Decoded, Kind, Value

Key = tuple[Kind, ObjectName]

_serials = count(1)


class Indexer:
    """`node_name` is this node's: other Nodes are of no interest. `changes`: until now."""

    def __init__(self, node_name: str = "") -> None:
        self._node_key = (Kind.NODE, ObjectName("", node_name))
        self._in_force: dict[Key, Value] = {}
        self._problems: dict[Key, tuple[Problem, ...]] = {}
        self._services: dict[ObjectName, Service] = {}
        self._slices: dict[ObjectName, dict[ObjectName, EndpointSlice]] = {}
        self._slice_tuples: dict[ObjectName, tuple[EndpointSlice, ...]] = {}
        self._cidrs: dict[ObjectName, ServiceCIDR] = {}
        self._touched: set[ObjectName] = set()
        self._ungathered: set[ObjectName] = set()
        self._serial = 0
        self.changes = Changes()

    def put(self, key: Key, versions: Sequence[Decoded], problems: Iterable[Problem] = ()) -> bool:
        """These are all versions of an object now, and what is wrong beside them; False if that is no change.

        The first one counts, if it can be used.
        """
        before = self._in_force.get(key)
        value = _choose(versions, before)
        stays = before is not None and bool(versions) and versions[0].malformed
        own = [problem._replace(last_stays=stays) for one in versions[:1] for problem in one.problems]
        changed = self._set_problems(
            key, (*own, *(problem for one in versions[1:] for problem in one.problems), *problems)
        )
        if value == before:
            return changed
        if value is None:
            del self._in_force[key]
        else:
            self._in_force[key] = value
        self._file(key, before, value)
        return True

    def _set_problems(self, key: Key, problems: tuple[Problem, ...]) -> bool:
        before = self._problems.pop(key, ())
        if problems:
            self._problems[key] = problems
        return problems != before

    def _file(self, key: Key, before: Value | None, now: Value | None) -> None:
        kind, name = key
        services, slices = self.changes
        self.changes = Changes(services + (kind is Kind.SERVICE), slices + (kind is Kind.ENDPOINT_SLICE))
        if kind is Kind.SERVICE:
            self._touched.add(name)
            if isinstance(now, Service):
                self._services[name] = now
            else:
                del self._services[name]
        elif kind is Kind.SERVICE_CIDR:
            if isinstance(now, ServiceCIDR):
                self._cidrs[name] = now
            else:
                del self._cidrs[name]
        if isinstance(before, EndpointSlice):
            del self._slices[before.service][name]
            self._ungathered.add(before.service)
        if isinstance(now, EndpointSlice):
            self._slices.setdefault(now.service, {})[name] = now
            self._ungathered.add(now.service)

    def snapshot(self, nameless: Iterable[Problem] = ()) -> Snapshot:
        """Everything that is in force now. `nameless`: problems of objects that have no name."""
        for service in self._ungathered:
            self._gather(service)
        self._touched |= self._ungathered
        self._ungathered.clear()
        node = self._in_force.get(self._node_key)
        made = Snapshot(
            services=dict(self._services),
            slices=dict(self._slice_tuples),
            node=node if isinstance(node, Node) else None,
            service_cidrs=self._service_cidrs(),
            problems=self._all_problems(nameless),
            changes=self.changes,
            serial=next(_serials),
            previous=self._serial,
            touched=frozenset(self._touched),
        )
        self._serial = made.serial
        self._touched.clear()
        return made

    def _all_problems(self, nameless: Iterable[Problem]) -> tuple[Problem, ...]:
        named = (problem for problems in self._problems.values() for problem in problems)
        # stable: the problems of one object stay in the order of its fields
        return tuple(sorted((*nameless, *named), key=attrgetter("origin", "object")))

    def _gather(self, service: ObjectName) -> None:
        slices = self._slices[service]
        if slices:
            self._slice_tuples[service] = tuple(sorted(slices.values(), key=attrgetter("name")))
        else:
            del self._slices[service]
            self._slice_tuples.pop(service, None)

    def _service_cidrs(self) -> tuple[IPNetwork, ...]:
        return tuple(cidr for _, one in sorted(self._cidrs.items()) for cidr in one.cidrs)


def _choose(versions: Sequence[Decoded], in_force: Value | None) -> Value | None:
    """The first version, if it can be used; else what is in force; else the first that can be used."""
    if not versions:
        return None
    if versions[0].malformed and in_force is not None:
        return in_force
    return next((one.value for one in versions if not one.malformed), None)
