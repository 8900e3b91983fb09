"""The figures of a large cluster, at a size that takes a moment."""

import json
import subprocess
import sys
from pathlib import Path

from kpf.lab.changes import Change
from perf.cluster import lags
from tests.apiserver import Sent


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


def test_a_small_cluster_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    arguments = ("--services", "100", "--endpoints", "3", "--rate", "50", "--duration", "1", "--json", str(output))
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
