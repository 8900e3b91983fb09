"""A node port that something else on this node listens on is captured all the same, and that is said."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kpf.master import occupied
from kpf.master.occupied import OccupiedNodePorts
from kpf.model.endpoint import EndpointPort
from kpf.model.names import Family, ObjectName, Protocol
from kpf.model.rules import NodePort
from kpf.model.service import Service, ServicePort, ServiceType
from kpf.plan.desired import DesiredState
from kpf.plan.node import NodeFacts
from tests.test_plan_desired import plan
from tests.values import FACTS, TCP, UDP, WORKERS, endpoints, service

BOTH = ("10.96.0.1", "fd00:96::1")
WITH_SCTP = replace(FACTS, has_sctp=True)


def wanted(protocol: Protocol, *ports: int, facts: NodeFacts = FACTS, ips: Iterable[str] = BOTH) -> DesiredState:
    return plan(exposed(protocol, *ports, ips=ips), facts=facts)


def exposed(protocol: Protocol, *ports: int, ips: Iterable[str] = BOTH) -> Service:
    made = tuple(ServicePort(f"p{index}", protocol, 80 + index, port) for index, port in enumerate(ports))
    return service(type=ServiceType.NODE_PORT, cluster_ips=ips, ports=made)


@contextmanager
def listener(protocol: Protocol, family: Family, address: str = "") -> Iterator[int]:
    """A free port of the machine that somebody has from now on."""
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, kind) as one:
        if family is Family.IPV6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, 0))
        if protocol is TCP:
            one.listen()
        yield one.getsockname()[1]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_node_port_that_somebody_listens_on_is_said_with_its_family_and_field(
    protocol: Protocol, family: Family
) -> None:
    other = UDP if protocol is TCP else TCP
    with listener(protocol, family) as port:
        (problem,) = OccupiedNodePorts().problems(wanted(protocol, port))
        assert OccupiedNodePorts().problems(wanted(other, port)) == ()
    assert problem[:3] == ("web.yaml", "Service default/web", "spec.ports[0].nodePort")
    assert f"something on this node listens on node port {port}/{protocol} ({family}) too" in problem.message
    assert OccupiedNodePorts().problems(wanted(protocol, port)) == ()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_listens_on_one_address_has_the_port_too(address: str) -> None:
    with listener(TCP, Family.IPV6 if ":" in address else Family.IPV4, address) as port:
        assert len(OccupiedNodePorts().problems(wanted(TCP, port))) == 1


def test_the_problem_goes_with_the_node_port_and_another_does_not_take_it_along() -> None:
    watch = OccupiedNodePorts()
    with listener(TCP, Family.IPV4) as one, listener(TCP, Family.IPV4) as other:
        both = watch.problems(wanted(TCP, one, other, ips=BOTH[:1]))
        assert {f"spec.ports[{index}].nodePort" for index in (0, 1)} == {problem.field for problem in both}
        (left,) = watch.problems(wanted(TCP, other, ips=BOTH[:1]))
        assert str(other) in left.message
        assert watch.problems(DesiredState()) == ()
        assert len(watch.problems(wanted(TCP, one, ips=BOTH[:1]))) == 1


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_endpoint_that_listens_on_its_own_services_node_port_is_nobody_else(protocol: Protocol) -> None:
    with listener(protocol, Family.IPV4) as port:
        one = exposed(protocol, port, ips=BOTH[:1])
        for address, said in (("192.168.1.10", 0), ("10.0.0.1", 1)):
            pods = replace(endpoints(address), ports=(EndpointPort("p0", protocol, port),))
            state = plan(one, pods, facts=replace(FACTS, worker_uid=WORKERS))
            assert len(OccupiedNodePorts().problems(state)) == said


def test_whoever_has_the_node_port_now_is_named() -> None:
    watch = OccupiedNodePorts()
    with listener(TCP, Family.IPV4) as port:
        first, second = exposed(TCP, port, ips=BOTH[:1]), exposed(TCP, port, ips=("10.96.0.2",))
        second = replace(second, name=ObjectName("default", "zzz"))
        states = plan(first, second), plan(second)
        owners = [[problem.object for problem in watch.problems(state)] for state in states]
    assert owners == [["Service default/web"], ["Service default/zzz"]]


def test_each_node_port_is_tried_once_while_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[NodePort] = []
    is_free = occupied._is_free

    def listen_in(port: NodePort) -> bool:
        tried.append(port)
        return is_free(port)

    monkeypatch.setattr(occupied, "_is_free", listen_in)
    watch = OccupiedNodePorts()
    first, second = (NodePort(Family.IPV4, TCP, port) for port in (30001, 30002))
    states = [wanted(TCP, *ports, ips=BOTH[:1]) for ports in ((30001,), (30001,), (30001, 30002), (), (30001,))]
    seen = []
    for state in states:
        watch.problems(state)
        seen.append(tried[:])
        tried.clear()
    assert seen == [[first], [], [second], [], [first]]


def test_sctp_is_not_tried() -> None:
    with listener(TCP, Family.IPV4) as port:
        state = wanted(Protocol.SCTP, port, facts=WITH_SCTP)
        assert state.rules.node_ports
        assert OccupiedNodePorts().problems(state) == ()
