"""What a reload changes under load: workers, proxy ports, where proxies listen, and the source. Nobody notices."""

import json
import signal
import sys
import threading
import time
from typing import Any, Self

import pytest

from kpf.lab.clients import connect, failures, hold, names, steady
from kpf.lab.daemon import Daemon
from kpf.lab.manifests import Manifests
from kpf.lab.topology import NODE_ADDRESSES
from kpf.observe.client import ask
from tests.e2e.world import METRICS, POD_PORT, World, eventually, scrape, shop
from tests.metrics_world import flat

SHOP, STICKY = ("10.96.0.10", 80), ("10.96.0.11", 80)


class Configured:
    """A daemon with a configuration file, and what is in it."""

    def __init__(self, world: World) -> None:
        self._path = world.directory / "kpf.yaml"
        self.daemon = world.daemon()
        self.daemon.argv = [sys.executable, "-m", "kpf", "run", "--config", str(self._path)]
        self._fields: dict[str, Any] = {
            "apiVersion": "kpf.io/v1alpha1",
            "kind": "KpfConfiguration",
            "manifests": str(world.manifests.directory),
            "controlSocket": str(self.daemon.control_socket),
            "handoverSocket": str(world.directory / "handover.sock"),
            "healthzBindAddress": "",
            "metricsBindAddress": "",
            "workers": 2,
        }
        self.write()

    def write(self, **fields: Any) -> None:
        self._fields |= fields
        self._path.write_text(json.dumps(self._fields))

    def reload(self, **fields: Any) -> None:
        self.write(**fields)
        times = self.daemon.log().count("are read anew")
        self.daemon.signal(signal.SIGHUP)
        self.daemon.wait_for_log("are read anew", times=times + 1, timeout_s=10.0)


class Counted:
    """A counter, as it is scraped again and again inside the context."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, list[float]()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def _scrape(self) -> None:
        while not self._is_over.wait(0.2):
            self.seen.append(flat(scrape())[self.name])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def _serving(daemon: Daemon) -> list[dict[str, Any]]:
    return [worker for worker in daemon.status()["workers"] if worker["state"] != "leaving"]


def test_workers_ports_addresses_and_the_source_change_under_load(world: World) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    world.serve("sticky", STICKY[0], pods, sessionAffinity="ClientIP")
    other = Manifests(world.directory / "other")
    for name, target in (("shop", SHOP), ("sticky", STICKY)):
        affinity = {"sessionAffinity": "ClientIP"} if name == "sticky" else {}
        other.write(f"{name}.yaml", *shop(name, target[0], pods, **affinity))
    other.write("more.yaml", *shop("more", "10.96.0.12", pods[:1]))
    one = Configured(world)
    with one.daemon as daemon, world.lab.outside.converse(hold, SHOP, 10) as held:
        # not the first one, which is anybody's who begins anew
        assert names(world.lab.outside.call(connect, STICKY, 2, sources=["192.168.50.12", ""])) == dict.fromkeys(
            pods[:2], 1
        )
        (mine,) = world.answers(STICKY)
        assert mine == pods[1]
        one.reload(metricsBindAddress=METRICS)
        with (
            Counted("kpf_connections_total default shop") as counted,
            world.lab.outside.begin(steady, SHOP, 200, 8.0) as load,
        ):
            for workers in (4, 1, 3):
                one.reload(workers=workers)
                assert len(_serving(daemon)) == workers
                assert world.answers(STICKY, 3) == {mine: 3}
            one.reload(portRange="23000-23999")
            eventually(lambda: 23000 <= daemon.service("shop")["proxyPort"] <= 23999)
            assert world.answers(STICKY, 3) == {mine: 3}
            one.reload(bindAddress=NODE_ADDRESSES[0])
            eventually(lambda: NODE_ADDRESSES[0] in daemon.status()["proxyAddresses"])
            assert world.answers(STICKY, 3) == {mine: 3}
            one.reload(bindAddress=None, manifests=str(other.directory))
            daemon.wait_for_log("Services come from another source now")
            eventually(lambda: world.answers(("10.96.0.12", 80)) == {pods[0]: 1})
            outcomes = load.result()
        # frontends have come and gone, and what they have counted stays
        assert counted.seen == sorted(counted.seen)
        reloaded = "kpf_config_last_reload_successful"
        assert flat(scrape())[reloaded] == 1
        one.write(workers=0)
        daemon.signal(signal.SIGHUP)
        eventually(lambda: flat(scrape())[reloaded] == 0)
        one.reload(workers=3)
        eventually(lambda: flat(scrape())[reloaded] == 1)
        assert flat(scrape())[counted.name] == 10 + len(outcomes)
        assert names(failures(outcomes)) == {}
        counts = names(outcomes)
        assert max(counts.values()) - min(counts.values()) <= 10
        assert failures(held.send("ping")) == []
        # the connections of before are carried by those who have begun them
        leaving = [worker for worker in daemon.status()["workers"] if worker["state"] == "leaving"]
        assert sum(worker["connectionsActive"] for worker in leaving) == 10
        # and told by them, though the frontend with that proxy port is closed
        answer = ask(str(daemon.control_socket), "/connections?what=default/shop")[1]
        theirs = [one for one in answer["connections"] if one["pid"] in {worker["pid"] for worker in leaving}]
        assert sorted(one["endpoint"] for one in theirs) == sorted(f"{one.name}:{POD_PORT}" for one in held.first)
        assert {one["name"] for one in theirs} == {"shop"}
        assert answer["notTold"] == []
        assert failures(held.send("close")) == []
        eventually(lambda: len(daemon.status()["workers"]) == 3)
        assert world.answers(STICKY, 3) == {mine: 3}


@pytest.mark.parametrize("workers", [1, 4])
def test_queued_connections_of_a_place_that_goes_are_served(world: World, workers: int) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    one = Configured(world)
    with one.daemon, world.lab.outside.begin(steady, SHOP, 300, 2.0) as load:
        time.sleep(0.5)
        one.reload(workers=workers)
        assert names(load.result()) == {pods[0]: 600}
