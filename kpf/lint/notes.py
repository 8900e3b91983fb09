"""Looks on while manifests are decoded, and notes what was read, what was passed over, and what is odd about it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from kpf.lint.objects import Oddity, odd_annotations, odd_fields, odd_kind, odd_labels
from kpf.lint.relations import Relations, Slice, SlicePort
from kpf.model.endpoint import EndpointSlice
from kpf.model.names import ObjectName, Protocol
from kpf.model.service import Service, ServiceType
from kpf.model.snapshot import Problem
from kpf.sources.decode import API_VERSIONS, MAX_PROBLEMS, Decoded, Kind, decode, described, flattened
from kpf.sources.messages import path_of, short
from kpf.sources.services import HEADLESS

# all are counted; what is told has an end, for what each was meant to be takes up to a millisecond
MAX_WARNINGS = 1000


class Notes:
    """`counts`: objects of each kind that is read. `features`: of the Services. `passed_over`: of other kinds.

    `warnings`: in the order in which they were found, the first `MAX_WARNINGS`; `left_out`: how many there are besides.
    """

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.features: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self.warnings: dict[Problem, None] = {}
        self.left_out = 0
        self._relations = Relations()
        self._seen: set[tuple[str, str]] = set()

    def decode(self, raw: Any, origin: str) -> Iterator[Decoded]:
        """As `sources.decode.decode`, for which it stands."""
        for one in flattened(raw):
            decoded = [*decode(one, origin)]
            if isinstance(one, dict):
                self._note(one, decoded[0] if decoded else None, origin)
            yield from decoded

    def warn(self, warnings: Iterable[Problem]) -> None:
        """Take note of these, as long as there is room."""
        for one in warnings:
            if len(self.warnings) < MAX_WARNINGS:
                self.warnings[one] = None
            else:
                self.left_out += one not in self.warnings

    def conclude(self) -> None:
        """All is read: what does not fit together can be told now."""
        self.warn(self._relations.oddities())

    def _note(self, raw: Mapping[str, Any], decoded: Decoded | None, origin: str) -> None:
        if decoded is None:
            self._pass_over(raw, origin)
        elif decoded.kind is not None and self._is_new(decoded.kind, str(decoded.name or "")):
            self.counts[decoded.kind] += 1
            self._note_object(raw, decoded.kind, origin)
            if decoded.kind is Kind.SERVICE and decoded.name is not None:
                self._note_service(raw, decoded.name, decoded.value)
            if isinstance(decoded.value, EndpointSlice):
                self._relations.slices.append(_slice(raw, decoded.value))

    def _is_new(self, kind: str, name: str) -> bool:
        """A whole list is decoded again where its items cannot be told apart; who is in two files is a problem."""
        if name and (kind, name) in self._seen:
            return False
        self._seen.add((kind, name))
        return True

    def _note_object(self, raw: Mapping[str, Any], kind: Kind, origin: str) -> None:
        labels = odd_labels(raw) if kind is Kind.ENDPOINT_SLICE else ()
        found = chain(odd_fields(raw, kind), odd_annotations(raw, kind), labels)
        told = described(kind, raw)
        self._warn_of(islice(found, MAX_PROBLEMS), origin, told)
        if more := sum(1 for _ in found):
            self.warn([Problem(origin, told, "", f"has {more} more of these")])

    def _note_service(self, raw: Mapping[str, Any], name: ObjectName, value: object) -> None:
        self._relations.services[name] = value if isinstance(value, Service) else None
        if isinstance(value, Service) and value.type is ServiceType.EXTERNAL_NAME:
            self.features["ExternalName"] += 1
        elif isinstance(value, Service) and raw["spec"].get("clusterIP") == HEADLESS:
            self.features["headless"] += 1

    def _pass_over(self, raw: Mapping[str, Any], origin: str) -> None:
        api_version, kind = raw["apiVersion"], raw["kind"]
        told = described(short(kind), raw)
        metadata = raw.get("metadata")
        has_name = isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
        if not self._is_new(f"{api_version} {kind}", told if has_name else ""):
            return
        self.passed_over[short(f"{api_version} {kind}" if kind in API_VERSIONS else kind)] += 1
        oddity = odd_kind(api_version, kind)
        if oddity is not None:
            self._warn_of([oddity], origin, told)

    def _warn_of(self, oddities: Iterable[Oddity], origin: str, told: str) -> None:
        for one in oddities:
            if len(self.warnings) < MAX_WARNINGS:
                self.warn([Problem(origin, told, path_of(one.place), str(one))])
            else:
                # without a look at what was meant
                self.left_out += 1


def _slice(raw: Mapping[str, Any], value: EndpointSlice) -> Slice:
    listed = enumerate(raw.get("ports") or ())
    ports = [
        SlicePort(index, str(port.get("name") or ""), str(port.get("protocol") or Protocol.TCP))
        for index, port in listed
        if isinstance(port, dict)
    ]
    return Slice(value.origin, value.name, value.service, ports)
