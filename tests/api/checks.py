"""What tests of the source ask: of the test API server what it was asked, of the source what it knows."""

import time
from collections.abc import Callable
from typing import Any

from kpf.model.names import ObjectName
from kpf.model.snapshot import Snapshot
from kpf.sources.decode import Kind, decode_as
from tests.api.follower import Follower
from tests.apiserver import ApiServer, Asked
from tests.apiserver.objects import endpoint_slice, node, service, service_cidr

WEB, SHOP, LATE = (ObjectName("default", name) for name in ("web", "shop", "late"))
RESOURCES = ("services", "endpointslices", "nodes", "servicecidrs")
REFUSED = "cannot connect: Connection refused"
# makes a source, of the server with its token unless a kubeconfig is given
Make = Callable[..., Follower]
Messages = Callable[[], list[str]]


class Shared(ApiServer):
    """One for many tests: begun anew for each, as if it had just been started."""

    began_s = 0.0

    def begin(self) -> None:
        self.lift()
        self.set_tokens(self.token)
        self.settings(streaming_list=True)
        self.listen()
        self.reset()
        for kind in Kind:
            for one in self.truth(kind):
                self.delete(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"])
        self.began_s = time.monotonic()

    def requests(self, resource: str | None = None, verb: str | None = None, *, since_s: float = 0.0) -> list[Asked]:
        return super().requests(resource, verb, since_s=max(since_s, self.began_s))


def fill(server: ApiServer) -> None:
    server.put_all(
        [
            service("web", "10.96.0.1"),
            endpoint_slice("web", ["10.0.0.1", "10.0.0.2"]),
            service("shop", "10.96.0.2"),
            endpoint_slice("shop", ["10.0.0.3"]),
            node("node-1", "192.0.2.1"),
            node("node-2", "192.0.2.2"),
            service_cidr("kubernetes", "10.96.0.0/12"),
        ]
    )


def add(server: ApiServer, name: str = "late") -> None:
    server.put(service(name, "10.96.0.9"))


def has(name: ObjectName) -> Callable[[Snapshot], bool]:
    return lambda snapshot: name in snapshot.services


def asked(server: ApiServer, since_s: float, resource: str | None = None) -> list[Asked]:
    return server.requests(resource, since_s=since_s)


def resumes(one: Asked) -> bool:
    return one.verb == "watch" and one.query.get("resourceVersion", "0") != "0" and "sendInitialEvents" not in one.query


def probes(one: Asked) -> bool:
    return one.verb == "list" and one.query.get("limit") == "1"


def lists(one: Asked) -> bool:
    return not resumes(one) and not probes(one)


def assert_goes_on(server: ApiServer, kpf: Follower, since_s: float) -> None:
    """What comes next is told; nobody has asked for a list since; nothing was ever missing or made anew."""
    before = kpf.snapshots[0]
    kpf.until_holds(lambda: bool(asked(server, since_s)))
    add(server)
    after = kpf.until(has(LATE))
    assert not [one for one in asked(server, since_s) if lists(one)]
    assert_nothing_is_ever_missing(kpf)
    for name, value in before.services.items():
        assert after.services[name] is value
        assert after.slices[name] is before.slices[name]
    assert after.node is before.node
    assert_truth(server, after)


def assert_nothing_is_ever_missing(kpf: Follower) -> None:
    # what was once known never becomes too little
    assert None not in kpf.reads[kpf.reads.index(kpf.snapshots[0]) :]
    for one in kpf.snapshots:
        assert {WEB, SHOP} <= one.services.keys()
        assert {WEB, SHOP} <= one.slices.keys()


def assert_truth(server: ApiServer, snapshot: Snapshot) -> None:
    """The snapshot is what the server has."""
    assert dict(snapshot.services) == {one.name: one.value for one in decoded(server, Kind.SERVICE)}
    slices = [one for group in snapshot.slices.values() for one in group]
    assert sorted(slices, key=lambda one: one.name) == [one.value for one in decoded(server, Kind.ENDPOINT_SLICE)]
    assert snapshot.node in [one.value for one in decoded(server, Kind.NODE)]
    cidrs = [one.value.cidrs for one in decoded(server, Kind.SERVICE_CIDR)]
    assert snapshot.service_cidrs == tuple(cidr for group in cidrs for cidr in group)
    assert snapshot.problems == ()


def decoded(server: ApiServer, kind: Kind) -> list[Any]:
    return [decode_as(kind, raw) for raw in server.truth(kind)]
