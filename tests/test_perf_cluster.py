"""The figures of a large cluster, at a size that takes a moment."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from kpf.lab.changes import Change
from perf.cluster import lags
from perf.mixture import forwarded, mixed
from tests.apiserver import Sent

ALONE = [
    f"{what}, alone: write to the kernel's word"
    for what in ("an endpoint replaced", "an endpoint more", "Service removed", "Service added")
]


def flip(time_s: float, number: int, *, ready: bool) -> Sent:
    addresses = ["10.128.0.1"]
    return Sent(time_s, f"default/service-{number}-1", "flip", addresses if ready else [], [] if ready else addresses)


def element(time_s: float, number: int, *, ready: bool, is_new: bool = True) -> Change:
    return Change(time_s, is_new, "proxy-ip4" if ready else "verdict-ip4", bytes((10, 96, 0, 1 + number)) + b"rest")


def test_a_lag_is_to_the_first_element_that_says_so() -> None:
    sent = [
        flip(1.0, 0, ready=False),
        Sent(1.1, "default/service-1-1", "swap", [], []),
        flip(1.2, 1, ready=False),
        flip(2.0, 0, ready=True),
        flip(3.0, 2, ready=False),
    ]
    heard = [
        element(0.9, 0, ready=False),
        element(1.25, 0, ready=True, is_new=False),
        element(1.25, 0, ready=False),
        element(1.5, 1, ready=False),
        element(2.5, 0, ready=True),
    ]
    assert lags(sent, heard) == [0.25, 1.5 - 1.2, 0.5]


def test_an_element_of_a_portal_that_the_kernel_forwards_says_so_too_and_one_of_a_node_port_does_not() -> None:
    heard = [
        Change(1.1, True, "proxy-node-ports-ip4", bytes((80, 0))),
        Change(1.2, True, "direct-ip4", bytes((10, 96, 0, 1)) + b"rest"),
        element(1.3, 0, ready=True),
    ]
    assert lags([flip(1.0, 0, ready=True)], heard) == [1.2 - 1.0]


def test_services_that_the_kernel_forwards_to_are_of_all_kinds_and_evenly_spread() -> None:
    objects = list(mixed(5000, 10, 1000, "node-1"))
    assert len(objects) == 10_000
    udp_or_annotated = forwarded(objects)
    services = [service for service in objects[::2] if service["spec"].get("externalTrafficPolicy") == "Local"]
    assert len(services) == 100
    services += [service for service, _ in udp_or_annotated]
    kinds = Counter(service["spec"]["ports"][0]["protocol"] for service, _ in udp_or_annotated)
    assert kinds == {"UDP": 800, "TCP": 100}
    assert len({service["metadata"]["name"] for service in services}) == 1000
    assert sum(service["spec"]["sessionAffinity"] == "ClientIP" for service in services) == 50
    places = sorted(int(service["metadata"]["name"].removeprefix("service-")) for service in services)
    assert {after - before for before, after in pairwise(places)} == {5}


@pytest.mark.parametrize("direct", ["0", pytest.param("20", marks=pytest.mark.soak)])
def test_a_small_cluster_is_measured(tmp_path: Path, direct: str) -> None:
    output = tmp_path / "figures.json"
    size = ("--services", "100", "--direct", direct, "--endpoints", "3", "--rate", "50", "--duration", "1")
    arguments = (*size, "--json", str(output))
    done = subprocess.run(
        [sys.executable, "-m", "perf.cluster", *arguments], check=True, capture_output=True, text=True
    )
    figures = {one["what"]: one for one in json.loads(output.read_text())}
    assert figures["100 Services x 3 endpoints: start to READY=1"]["value"] < 10
    lag = figures["50 slices a second for 1 s: lag to the kernel, p99"]
    assert 0 < lag["value"] < 1000
    assert figures["50 slices a second for 1 s: lag to the kernel, p50"]["detail"].startswith(
        "5 of 5 flips in 50 changes"
    )
    assert 0 < figures["a change alone: lag to the kernel"]["value"] < 1000
    assert "memory of the master" in done.stdout
    of_direct = {what.removeprefix("20 direct: "): one["value"] for what, one in figures.items() if "direct: " in what}
    assert bool(of_direct) is (direct != "0")
    for what in (*ALONE, "full sync (SIGHUP)", "10,000 UDP flows, Service removed: its 6,667 entries gone"):
        assert not of_direct or 0 < of_direct[what] < 5000
