"""The cache: who counts, what stays in force, and which identities survive."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.endpoint import EndpointSlice
from kpf.model.names import ObjectName
from kpf.model.service import Service
from kpf.model.snapshot import Node, Problem, Snapshot
from kpf.sources.cache import Cache
from kpf.sources.decode import Decoded, Kind
from tests.values import endpoints, service

WEB = ObjectName("default", "web")


def sound(value: Service | EndpointSlice) -> Decoded:
    kind = Kind.SERVICE if isinstance(value, Service) else Kind.ENDPOINT_SLICE
    return Decoded(kind, value.name, value)


def malformed(name: str = "web", kind: Kind = Kind.SERVICE, origin: str = "web.yaml") -> Decoded:
    full = ObjectName("default", name)
    problem = Problem(origin, f"{kind} {full}", "spec.ports", "is wrong")
    return Decoded(kind, full, problems=(problem,), malformed=True)


def node(name: str) -> Decoded:
    return Decoded(Kind.NODE, ObjectName("", name), Node(name))


def test_services_slices_and_this_node() -> None:
    cache = Cache("node-1")
    web, first, second = service(), endpoints("10.0.0.1", name="b"), endpoints("10.0.0.2", name="a")
    cache.put("a.yaml", [sound(web), sound(first), sound(second), node("node-1"), node("node-2")])
    assert cache.snapshot() == Snapshot({WEB: web}, {WEB: (second, first)}, Node("node-1"))
    cache.drop("a.yaml")
    assert cache.snapshot() == Snapshot()


def test_changes_are_counted_by_kind_and_what_is_no_change_is_not() -> None:
    cache = Cache("node-1")
    web, pods = service(), endpoints("10.0.0.1")
    cache.put("a.yaml", [sound(web), sound(pods), sound(service("shop")), node("node-1")])
    assert cache.snapshot().changes == (2, 1)
    # equal, and decoded anew; and when it has happened is no change by itself
    cache.put("a.yaml", [sound(replace(web)), sound(replace(pods, triggered_at_s=5.0)), sound(service("shop"))])
    assert cache.snapshot().changes == (2, 1)
    cache.put("a.yaml", [sound(service(ports=())), sound(replace(pods, endpoints=()))])
    assert cache.snapshot().changes == cache.changes == (4, 2)


def test_what_does_not_change_keeps_its_identity() -> None:
    cache = Cache()
    web, shop, pods = service(), service("shop"), endpoints("10.0.0.1")
    others = endpoints("10.0.0.2", of="shop")
    cache.put("a.yaml", [sound(web), sound(pods)])
    cache.put("b.yaml", [sound(shop), sound(others)])
    before = cache.snapshot()
    assert cache.snapshot() is before
    # equal, and decoded anew
    cache.put("a.yaml", [sound(replace(web)), sound(replace(pods))])
    cache.put("b.yaml", [sound(shop), sound(replace(others, endpoints=()))])
    after = cache.snapshot()
    assert after.services[WEB] is web
    assert after.services[shop.name] is shop
    assert after.slices[WEB] is before.slices[WEB]
    assert after.slices[shop.name] == (replace(others, endpoints=()),)
    # a snapshot does not change under its reader
    assert before.slices[shop.name] == (others,)


def test_the_first_file_by_name_counts_and_the_other_is_reported() -> None:
    cache = Cache()
    first, second = service(origin="a.yaml"), service(origin="b.yaml")
    cache.put("b.yaml", [sound(second)])
    assert cache.snapshot().services[WEB] is second
    cache.put("a.yaml", [sound(first)])
    found = cache.snapshot()
    assert found.services[WEB] is first
    assert [str(problem) for problem in found.problems] == [
        "b.yaml: Service default/web: metadata.name: is in a.yaml already: this one is left out"
    ]
    cache.drop("a.yaml")
    assert cache.snapshot() == Snapshot({WEB: second})


def test_an_object_twice_in_one_file() -> None:
    cache = Cache()
    first, second = service(), service(created="2025-01-01T00:00:00Z")
    cache.put("a.yaml", [sound(first), sound(second)])
    assert cache.snapshot().services[WEB] is first
    assert len(cache.snapshot().problems) == 1


@pytest.mark.parametrize("origin", ["web.yaml", "a.yaml", "z.yaml"])
def test_a_malformed_version_leaves_the_last_good_one_in_force(origin: str) -> None:
    cache = Cache()
    web = service()
    cache.put("web.yaml", [sound(web)])
    before = cache.snapshot()
    cache.put(origin, [malformed(origin=origin)])
    assert cache.snapshot().services[WEB] is web
    stays = [problem.last_stays for problem in cache.snapshot().problems if problem.message == "is wrong"]
    # where another file counts, that one's object is what is in force
    assert stays == [origin <= "web.yaml"]
    cache.drop(origin)
    cache.put("web.yaml", [sound(web)])
    assert cache.snapshot() == before


def test_a_version_of_which_something_is_left_out_counts() -> None:
    cache = Cache()
    cache.put("web.yaml", [sound(service())])
    cache.snapshot()
    newer = service(created="2025-01-01T00:00:00Z")
    problem = Problem("web.yaml", "Service default/web", "spec.ports[1].port", "is wrong")
    cache.put("web.yaml", [replace(sound(newer), problems=(problem,))])
    found = cache.snapshot()
    assert found.services[WEB] is newer
    assert found.problems == (problem,)


def test_a_malformed_object_that_is_deleted_is_gone() -> None:
    cache = Cache()
    cache.put("web.yaml", [sound(service())])
    cache.snapshot()
    cache.put("web.yaml", [malformed()])
    cache.snapshot()
    cache.put("web.yaml", [])
    assert cache.snapshot() == Snapshot()


def test_a_malformed_first_version_does_not_hide_a_sound_one_at_the_start() -> None:
    cache = Cache()
    web = service(origin="b.yaml")
    cache.put("a.yaml", [malformed(origin="a.yaml")])
    assert not any(problem.last_stays for problem in cache.snapshot().problems)
    cache.put("b.yaml", [sound(web)])
    assert cache.snapshot().services[WEB] is web


def test_a_file_that_is_renamed_while_its_object_is_malformed_keeps_it() -> None:
    cache = Cache()
    web = service()
    cache.put("old.yaml", [sound(web)])
    cache.snapshot()
    cache.drop("old.yaml")
    cache.put("new.yaml", [malformed(origin="new.yaml")])
    assert cache.snapshot().services[WEB] is web


def test_an_object_that_no_longer_counts_is_taken_out() -> None:
    cache = Cache()
    pods = endpoints("10.0.0.1")
    cache.put("a.yaml", [sound(pods)])
    assert cache.snapshot().slices[WEB] == (pods,)
    cache.put("a.yaml", [Decoded(Kind.ENDPOINT_SLICE, pods.name)])
    assert cache.snapshot() == Snapshot()


def test_a_slice_that_moves_to_another_service() -> None:
    cache = Cache()
    pods = endpoints("10.0.0.1")
    cache.put("a.yaml", [sound(pods)])
    cache.snapshot()
    moved = replace(pods, service=ObjectName("default", "shop"))
    cache.put("a.yaml", [sound(moved)])
    assert cache.snapshot().slices == {moved.service: (moved,)}


def test_problems_without_a_name_belong_to_their_file() -> None:
    cache = Cache()
    problem = Problem("a.yaml", "", "", "is not an object")
    cache.put("a.yaml", [Decoded(None, None, problems=(problem,))])
    assert cache.snapshot().problems == (problem,)
    assert cache.snapshot() is cache.snapshot()
    cache.put("a.yaml", [])
    assert cache.snapshot() == Snapshot()


VERSIONS = [service(), service(created="2025-01-01T00:00:00Z"), None]
FILES = st.lists(st.sampled_from([0, 1, 2]).map(lambda index: VERSIONS[index]), max_size=3)
CHANGES = st.lists(st.tuples(st.sampled_from("abc"), FILES, st.booleans()), max_size=12)


@given(CHANGES)
def test_any_sequence_of_changes_ends_as_a_slow_model_says(
    changes: list[tuple[str, list[Service | None], bool]],
) -> None:
    """The model: the last good one while any file has the object, by the first file's first version."""
    cache = Cache()
    files: dict[str, list[Service | None]] = {}
    in_force: Service | None = None
    for origin, versions, look in changes:
        files[origin] = versions
        cache.put(origin, [malformed() if one is None else sound(one) for one in versions])
        if not look:
            continue
        claims = [one for _, listed in sorted(files.items()) for one in listed]
        if not claims:
            in_force = None
        elif claims[0] is not None or in_force is None:
            in_force = next((one for one in claims if one is not None), None)
        found = cache.snapshot()
        assert found.services == ({} if in_force is None else {WEB: in_force})
        assert len(found.problems) == sum(one is None for one in claims) + max(0, len(claims) - 1)
