"""A show of `kpf demo` in which claims of every act are made false from outside: by what is there, or who answers."""

import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pyroute2.nftables.main import NFTables

from kpf.demo import show
from kpf.demo.acts import ending, failures, fairness
from kpf.demo.scene import MEMBERS, POD_PORT, PODS, SPARE, Scene
from kpf.demo.stage import Stage
from kpf.lab.clients import Address
from kpf.lab.manifests import endpoint_slice
from kpf.lab.topology import NODE_ADDRESSES
from kpf.uapi.netfilter import NFPROTO
from tests.e2e.world import eventually


class SabotagedScene(Scene):
    def __init__(self, directory: Path, stack: ExitStack) -> None:
        super().__init__(directory, stack)
        self.stack, self.true_config_path = stack, self.config_path
        Saboteur.scene = self


@dataclass(frozen=True, slots=True)
class Sabotage:
    """What happens behind an act's back: at these words of what is going on. And what does not hold then, in words."""

    deeds: Mapping[str, Callable[[SabotagedScene], None]]
    broken: Sequence[str]


class Saboteur(Stage):
    """Makes claims of every act false, by what is there."""

    scene: SabotagedScene

    def act(self, name: str, text: str) -> None:
        super().act(name, text)
        for true_name, pod in self.scene.pods.items():
            if pod.name != true_name:
                pod.name = true_name
                pod.restart("greet")
        self.scene.write_all()
        eventually(lambda: {one["state"] for one in self.scene.endpoints().values()} == {"healthy"})
        eventually(lambda: self.scene.endpoints().keys() == set(MEMBERS))

    def doing(self, what: str) -> None:
        super().doing(what)
        for words, deed in SABOTAGE[self.acts[-1].name].deeds.items() if self.acts else ():
            if words in what:
                deed(self.scene)


def _serve(*pods: str) -> Callable[[Scene], None]:
    def deed(scene: Scene) -> None:
        scene.serve_shop(pods)
        eventually(lambda: scene.endpoints().keys() == set(pods))

    return deed


def _restart(*pods: str) -> Callable[[Scene], None]:
    """Their connections are reset."""

    def deed(scene: Scene) -> None:
        for pod in pods:
            scene.pods[pod].restart("greet")

    return deed


def _rename(pod: str) -> Callable[[Scene], None]:
    """Somebody else answers in its place."""

    def deed(scene: Scene) -> None:
        scene.pods[pod].name = "stranger"
        scene.pods[pod].restart("greet")

    return deed


def _only_the_spare_after_the_outage(scene: Scene) -> None:
    _serve(SPARE)(scene)
    _restart(MEMBERS[0])(scene)


def _impostor(scene: SabotagedScene) -> Address:
    """Somebody on the node who answers in the pods' names in turn, and is not kpf."""
    server = scene.stack.enter_context(socket.create_server((NODE_ADDRESSES[0], 0), backlog=100))
    argv = [sys.executable, "-c", IMPOSTOR, str(server.fileno()), *MEMBERS]
    process = scene.stack.enter_context(scene.lab.node.start(argv, pass_fds=[server.fileno()]))
    scene.stack.callback(process.kill)
    address, port = server.getsockname()
    return address, port


def _lead_past_affinity(scene: SabotagedScene) -> None:
    vars(fairness)["CART"] = _impostor(scene)


def _lose_worker(scene: SabotagedScene) -> None:
    """More than the worker's connections are reset, and nobody comes to its successor."""
    _restart(*MEMBERS)(scene)
    vars(failures)["SHOP"] = _impostor(scene)


def _halt(scene: SabotagedScene) -> None:
    """The master stands still around the change that follows."""
    argv = ["sh", "-c", f"sleep {HALTED_S}; kill -CONT {scene.daemon.pid}"]
    scene.daemon.signal(signal.SIGSTOP)
    scene.stack.enter_context(scene.lab.node.start(argv))


def _configure_another_file(scene: SabotagedScene) -> None:
    scene.config_path = scene.true_config_path.with_name("other.yaml")


def _add_slice(scene: SabotagedScene) -> None:
    """The broken file is told, but what was in force does not stay so."""
    scene.config_path = scene.true_config_path
    more = endpoint_slice("shop", [scene.pods[SPARE].address], port=POD_PORT, suffix="2")
    scene.manifests.write("more.yaml", more)
    _restart(MEMBERS[1])(scene)


def _remove_slice(scene: Scene) -> None:
    scene.manifests.remove("more.yaml")


def _leave_something(scene: SabotagedScene) -> None:
    """A connection is cut, the next client is answered, and a table and the listening socket are left."""
    _restart(MEMBERS[2])(scene)
    vars(ending)["SHOP"] = _impostor(scene)
    with NFTables(nfgen_family=NFPROTO.INET) as nft:
        nft.table("add", name="left")


IMPOSTOR = """
import itertools, socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
for name in itertools.cycle(sys.argv[2:]):
    with server.accept()[0] as connection:
        connection.sendall(name.encode() + b"\\n")
"""
# longer than the second in which a change is to be in effect
HALTED_S = 1.3
NO_ERROR = "no client met an error"
SABOTAGE = {
    "Exact fairness": Sabotage({"from outside to the ClusterIP": _serve(*PODS)}, ["every pod of the Service"]),
    "Session affinity": Sabotage(
        {"clients connect": _lead_past_affinity}, ["clients is at one pod", "equal shares", "both workers took part"]
    ),
    "Dead pods under load": Sabotage(
        {"is a black hole": _serve(*PODS), "return:": _only_the_spare_after_the_outage},
        [NO_ERROR, "alone served meanwhile", "back in the round"],
    ),
    "Dead worker under load": Sabotage(
        {"is killed": _lose_worker}, ["the dead worker's own", "of the other worker go on", "its successor serves"]
    ),
    "Manifest edited under load": Sabotage(
        {
            f"{MEMBERS[2]}, {SPARE}": _restart(MEMBERS[0]),
            f"has {MEMBERS[0]}": _halt,
            f"has {MEMBERS[1]}": _rename(MEMBERS[1]),
        },
        [NO_ERROR, "within a second", "exactly its share", "no endpoint any more, go on"],
    ),
    "SIGHUP under load": Sabotage(
        {"in JSON": _configure_another_file, "files broken": _add_slice, "as it was": _remove_slice},
        [NO_ERROR, "the log is in JSON", "what was in force stays so"],
    ),
    "The end": Sabotage(
        {"SIGTERM": _leave_something},
        ["open connections go on", "dropped, not refused", "its rules are gone", "no process, listening socket"],
    ),
}


def sabotaged() -> int:
    """The show with a saboteur; to be run in a process of its own."""
    vars(show).update(Stage=Saboteur, Scene=SabotagedScene)
    return show.play(kept_until=())
