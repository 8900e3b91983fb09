"""Proxy ports: stable, unique, and spread."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kpf.model.names import EndpointSet, Family, FrontendKey, ServicePortName
from kpf.plan.ports import assign_ports, candidates
from tests.values import TCP


def key(name: str) -> FrontendKey:
    return FrontendKey(ServicePortName("default", name, "", TCP), Family.IPV4, EndpointSet.CLUSTER)


def assign(
    names: list[str],
    assigned: dict[FrontendKey, int],
    *,
    reserved: frozenset[int] = frozenset(),
    limit: int = 1000,
    is_free: Callable[[FrontendKey, int], bool] = lambda *_: True,
) -> dict[FrontendKey, int]:
    ports = range(20000, 20010)
    return assign_ports(map(key, names), assigned, port_range=ports, reserved=reserved, limit=limit, is_free=is_free)


def test_candidates_are_every_port_once() -> None:
    ports = list(candidates(key("web"), range(20000, 20010)))
    assert sorted(ports) == list(range(20000, 20010))
    assert ports != sorted(ports) or list(candidates(key("other"), range(20000, 20010))) != ports


def test_a_port_is_the_same_after_a_restart() -> None:
    # a change of the hash would move every port of a running node at its next upgrade
    assert next(candidates(key("web"), range(20000, 30000))) == 24394


def test_a_port_that_somebody_has_is_passed_over() -> None:
    first = assign(["web"], {})[key("web")]
    second = assign(["web"], {}, is_free=lambda _, port: port != first)[key("web")]
    assert second != first


def test_a_reserved_port_is_given_up() -> None:
    before = assign(["web"], {})
    port = before[key("web")]
    assert assign(["web"], before, reserved=frozenset({port}))[key("web")] != port


def test_an_exhausted_range_or_limit_leaves_some_out() -> None:
    names = [f"s{n}" for n in range(12)]
    assert len(assign(names, {})) == 10
    assert len(assign(names, {}, limit=4)) == 4


@given(st.lists(st.sets(st.sampled_from("abcdefgh")), max_size=6))
def test_ports_are_unique_and_sticky(history: list[set[str]]) -> None:
    assigned: dict[FrontendKey, int] = {}
    for names in history:
        now = assign(sorted(names), assigned)
        assert set(now) == set(map(key, names))
        assert len(set(now.values())) == len(now)
        assert all(now[one] == assigned[one] for one in now.keys() & assigned.keys())
        assigned = now
