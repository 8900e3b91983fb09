"""Endpoints in the state that `kpf status` shows: what their slices say, and what workers have counted."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from kpf.master.addresses import endpoint_of, shown
from kpf.model.endpoint import Endpoint, EndpointSlice
from kpf.model.names import IPAddress, SocketAddress
from kpf.shm import health
from kpf.shm.directory import Directory
from kpf.shm.layout import Address, Reason
from kpf.shm.observer import MemberView

_SERVICE_COUNTERS = ("connectionsActive", "connectionsTotal", "bytesIn", "bytesOut", "dialRetries")
_NOT_FAILING = dict.fromkeys(("since", "reason", "nextTry"))
_SILENT = "silent"


class Clock:
    """Moments of CLOCK_MONOTONIC in ms, as people read them."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def at_ms(self, monotonic_ms: int) -> str:
        """As `at`."""
        return at(self._offset_s + monotonic_ms / 1000)


def at(epoch_s: float) -> str:
    """RFC 3339, in UTC, to the second."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unwatched(endpoints: Iterable[SocketAddress], slices: Sequence[EndpointSlice]) -> dict[str, object]:
    """What is known of endpoints that the kernel forwards to: that they have been told to it."""
    known = _known(slices)
    return {
        **dict.fromkeys(_SERVICE_COUNTERS),
        "connectionsFailed": None,
        "endpoints": [
            {
                "address": str(endpoint),
                "state": "unknown",
                **dict.fromkeys(("connectionsActive", "connectionsTotal", "dialFailures", "dialFailuresByReason")),
                **_of_slices(known.get(endpoint.address)),
                **_NOT_FAILING,
            }
            for endpoint in endpoints
        ],
    }


def watched_endpoints(
    slots: Iterable[int], directory: Directory, slices: Sequence[EndpointSlice], clock: Clock
) -> dict[str, object]:
    """Counts of a ServicePort, whose frontends are at these `slots`, and of each of its endpoints."""
    slots, known = tuple(slots), _known(slices)
    counts = [directory.frontend(slot) for slot in slots]
    # an endpoint of two sets is one endpoint to the reader
    endpoints: dict[Address, list[MemberView]] = {}
    for slot in slots:
        for member in directory.members(slot):
            endpoints.setdefault(member.address, []).append(member)
    sums = zip(*((one.active, one.total, one.bytes_in, one.bytes_out, one.retries) for one in counts), strict=True)
    return {
        **dict(zip(_SERVICE_COUNTERS, map(sum, sums), strict=True)),
        "connectionsFailed": _by_reason(one.failed for one in counts),
        "endpoints": [
            _endpoint(address, members, known.get(endpoint_of(address).address), clock)
            for address, members in endpoints.items()
        ],
    }


def _known(slices: Iterable[EndpointSlice]) -> Mapping[IPAddress, Endpoint]:
    return {endpoint.address: endpoint for piece in slices for endpoint in piece.endpoints}


def _of_slices(endpoint: Endpoint | None) -> dict[str, object]:
    """It may be in no slice any more, and still be in force."""
    return {"node": endpoint.node_name if endpoint else "", "pod": endpoint.pod if endpoint else ""}


def _by_reason(several: Iterable[Mapping[Reason, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in several:
        for reason, count in one.items():
            if count:
                found[reason.name.lower()] = found.get(reason.name.lower(), 0) + count
    return found


def _endpoint(
    address: Address, members: Sequence[MemberView], known: Endpoint | None, clock: Clock
) -> dict[str, object]:
    counts = zip(*((one.active, one.total, one.dial_failures) for one in members), strict=True)
    failing = next((one for one in members if one.ejected), None)
    state = "terminating" if known is not None and known.terminating else "healthy"
    return {
        "address": shown(address),
        "state": "failing" if failing else state,
        **dict(zip(("connectionsActive", "connectionsTotal", "dialFailures"), map(sum, counts), strict=True)),
        "dialFailuresByReason": _by_reason(one.failures for one in members),
        **_of_slices(known),
        **(_failure(failing, clock) if failing else _NOT_FAILING),
    }


def _failure(member: MemberView, clock: Clock) -> dict[str, object]:
    """`reason` is None if it has failed for several: which was the last one nobody has noted."""
    since_ms = health.since_ms(member.health)
    reasons = list(_by_reason([member.failures]))
    reason = _SILENT if since_ms is None else reasons[0] if len(reasons) == 1 else None
    return {
        "since": None if since_ms is None else clock.at_ms(since_ms),
        "reason": reason,
        "nextTry": clock.at_ms(health.next_try_ms(member.health)),
    }
