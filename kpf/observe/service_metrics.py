"""Metrics of Services and their endpoints, within a limit on their number. Pure.

What matters most comes first: what each Service has counted, and which endpoints are in trouble; then its histograms;
then what each endpoint has counted. Within each of these, Services in the order that they are given in; one has all of
it or nothing, so what is left out is the same from one scrape to the next.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kpf.observe.families import Family, Kind, Labels, Series, counters, gauges, histogram_series, written
from kpf.shm.layout import DIAL_BOUNDS_MS, DURATION_BOUNDS_MS, Reason
from kpf.shm.observer import FrontendView, MemberView, Took

DIAL_BOUNDS = written(bound / 1000 for bound in DIAL_BOUNDS_MS)
DURATION_BOUNDS = written(bound / 1000 for bound in DURATION_BOUNDS_MS)

# of every ServicePort: connections, active ones, bytes in and out, retries
_ALWAYS = 5
_AN_ENDPOINT = 2

Failures = Mapping[Reason, int]


class EndpointView(NamedTuple):
    """An endpoint of a ServicePort, `address` with its port. `failures`: those that there have been."""

    address: str
    total: int
    active: int
    failures: Failures
    is_shut_out: bool


class ServiceView(NamedTuple):
    """A proxied ServicePort, its frontends added up. `labels`: namespace, service and port.

    `hits`: None without session affinity. `failed`: reasons that there have been. `dials`, `lasted`: None if there were
    none yet.
    """

    labels: Labels
    total: int
    active: int
    bytes_in: int
    bytes_out: int
    retries: int
    hits: int | None
    failed: Failures
    dials: Took | None
    lasted: Took | None
    endpoints: Sequence[EndpointView]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many series it has: of counts and troubles, of histograms, of endpoints."""
        troubles = sum(len(one.failures) + one.is_shut_out for one in self.endpoints)
        histograms = sum(len(took.buckets) + 2 for took in (self.dials, self.lasted) if took)
        counts = _ALWAYS + (self.hits is not None) + len(self.failed) + troubles
        return counts, histograms, _AN_ENDPOINT * len(self.endpoints)


def service_view(
    labels: Labels, frontends: Sequence[FrontendView], endpoints: Sequence[EndpointView], *, has_affinity: bool
) -> ServiceView:
    """Of the counts of its frontends, of which there is one at least."""
    return ServiceView(
        labels,
        total=sum(one.total for one in frontends),
        active=sum(one.active for one in frontends),
        bytes_in=sum(one.bytes_in for one in frontends),
        bytes_out=sum(one.bytes_out for one in frontends),
        retries=sum(one.retries for one in frontends),
        hits=sum(one.affinity_hits for one in frontends) if has_affinity else None,
        failed=_failures(one.failed for one in frontends),
        dials=_took([one.dials for one in frontends]),
        lasted=_took([one.lasted for one in frontends]),
        endpoints=endpoints,
    )


def endpoint_view(address: str, members: Sequence[MemberView]) -> EndpointView:
    """Of the members that it is, one in each frontend that has it."""
    return EndpointView(
        address,
        total=sum(one.total for one in members),
        active=sum(one.active for one in members),
        failures=_failures(one.failures for one in members),
        is_shut_out=any(one.ejected for one in members),
    )


def closed(frontend: FrontendView, before: FrontendView | None) -> FrontendView:
    """What a frontend that has ended leaves: its counts, and those of others of its ServicePort before it."""
    several = [frontend] if before is None else [frontend, before]
    return FrontendView(
        total=sum(one.total for one in several),
        active=0,
        bytes_in=sum(one.bytes_in for one in several),
        bytes_out=sum(one.bytes_out for one in several),
        retries=sum(one.retries for one in several),
        affinity_hits=sum(one.affinity_hits for one in several),
        failed=dict(_failures(one.failed for one in several)),
        dials=_added([one.dials for one in several]),
        lasted=_added([one.lasted for one in several]),
        affinity_entries=0,
        affinity_evictions=sum(one.affinity_evictions for one in several),
    )


def _failures(counts: Iterable[Failures]) -> Failures:
    added: dict[Reason, int] = {}
    for one in counts:
        for reason, count in one.items():
            if count:
                added[reason] = added.get(reason, 0) + count
    return added


def _took(several: Sequence[Took]) -> Took | None:
    added = _added(several)
    return added if any(added.buckets) else None


def _added(several: Sequence[Took]) -> Took:
    buckets = map(sum, zip(*(one.buckets for one in several), strict=True))
    return Took(tuple(buckets), sum(one.total_ms for one in several))


class Shown(NamedTuple):
    """How many Services, from the first one on, have which series; how many these are, and how many are left out."""

    counts: int
    histograms: int
    endpoints: int
    series: int
    left_out: int


def shown(sizes: Sequence[tuple[int, int, int]], limit: int) -> Shown:
    """Within `limit` series, of Services with these `ServiceView.sizes`. Once something is left out, so is the rest."""
    numbers, used, left_out = [], 0, 0
    for column in zip(*sizes, strict=True) if sizes else ((), (), ()):
        number = 0
        for size in column:
            if left_out or used + size > limit:
                left_out += size
            else:
                number, used = number + 1, used + size
        numbers.append(number)
    counts, histograms, endpoints = numbers
    return Shown(counts, histograms, endpoints, used, left_out)


def service_families(services: Sequence[ServiceView], what: Shown) -> Iterator[Family]:
    """All families of these Services, as far as they are shown."""
    some = services[: what.counts]
    yield counters("kpf_connections", "Connections that were accepted.", ((one.labels, one.total) for one in some))
    yield gauges("kpf_connections_active", "Connections that are open.", ((one.labels, one.active) for one in some))
    yield counters(
        "kpf_bytes",
        "Bytes carried, from clients (in) and to them (out).",
        (
            ({**one.labels, "direction": direction}, value)
            for one in some
            for direction, value in (("in", one.bytes_in), ("out", one.bytes_out))
        ),
    )
    yield counters(
        "kpf_dial_retries",
        "Dials beyond a connection's first: the one before had failed, or was slow.",
        ((one.labels, one.retries) for one in some),
    )
    yield counters(
        "kpf_connections_failed",
        "Connections that were reset without having had a backend, by the reason of the last dial.",
        (({**one.labels, "reason": _name(reason)}, count) for one in some for reason, count in one.failed.items()),
    )
    yield counters(
        "kpf_affinity_hits",
        "Connections that went to the endpoint that their client had before.",
        ((one.labels, one.hits) for one in some if one.hits is not None),
    )
    yield from _troubles(some)
    yield from _histograms(services[: what.histograms])
    yield from _endpoints(services[: what.endpoints])


def _troubles(services: Sequence[ServiceView]) -> Iterator[Family]:
    yield counters(
        "kpf_dial_failures",
        "Dials of an endpoint that have failed, by reason.",
        (
            ({**one.labels, "endpoint": endpoint.address, "reason": _name(reason)}, count)
            for one in services
            for endpoint in one.endpoints
            for reason, count in endpoint.failures.items()
        ),
    )
    yield gauges(
        "kpf_endpoint_shut_out",
        "1 while an endpoint is passed over because it has failed; absent else.",
        (
            ({**one.labels, "endpoint": endpoint.address}, 1)
            for one in services
            for endpoint in one.endpoints
            if endpoint.is_shut_out
        ),
    )


def _histograms(services: Sequence[ServiceView]) -> Iterator[Family]:
    yield Family(
        "kpf_dial_duration_seconds",
        Kind.HISTOGRAM,
        "How long clients have waited for a backend's answer, further tries included; to the millisecond.",
        _of_times(((one.labels, one.dials) for one in services), DIAL_BOUNDS),
    )
    yield Family(
        "kpf_connection_duration_seconds",
        Kind.HISTOGRAM,
        "How long connections have lasted that had a backend, from when they were accepted; to the millisecond.",
        _of_times(((one.labels, one.lasted) for one in services), DURATION_BOUNDS),
    )


def _of_times(times: Iterable[tuple[Labels, Took | None]], bounds: Sequence[str]) -> Iterator[Series]:
    for labels, took in times:
        if took is not None:
            yield from histogram_series(labels, bounds, took.buckets, took.total_ms / 1000)


def _endpoints(services: Sequence[ServiceView]) -> Iterator[Family]:
    yield counters(
        "kpf_endpoint_connections",
        "Dials of an endpoint that were answered.",
        ((labels, endpoint.total) for labels, endpoint in _labelled(services)),
    )
    yield gauges(
        "kpf_endpoint_connections_active",
        "Connections that are open to an endpoint, or that it is dialled for.",
        ((labels, endpoint.active) for labels, endpoint in _labelled(services)),
    )


def _labelled(services: Sequence[ServiceView]) -> Iterator[tuple[Labels, EndpointView]]:
    for one in services:
        for endpoint in one.endpoints:
            yield {**one.labels, "endpoint": endpoint.address}, endpoint


def _name(reason: Reason) -> str:
    return reason.name.lower()
