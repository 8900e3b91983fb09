"""The show: the scene is set in a private namespace, the acts are played, and all is cleaned up."""

import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from signal import Signals

from kpf.demo.acts import ACTS, stop
from kpf.demo.keep import keep
from kpf.demo.scene import ASKS_PER_S, CART, KEPT, MEMBERS, NEW_PER_S, NODE_PORT, SHOP, SPARE, Scene
from kpf.demo.stage import Stage
from kpf.lab import namespace
from kpf.lab.daemon import DaemonFailedError
from kpf.lab.machine import CallFailedError
from kpf.lab.topology import NODE_ADDRESSES

# an act cannot be played to its end: kpf does not answer, the lab does not, or the machine has no room
FAILURES = (OSError, CallFailedError, DaemonFailedError)


def play(*, kept_until: Collection[Signals]) -> int:
    """The exit status: 0 if every claim held, else 1. `kept_until`: leave it running before the end until one of these.

    Moves this process into a namespace of its own. Raises `NamespaceRefusedError`.
    """
    began_s = time.monotonic()
    stage = Stage()
    # the condition on which `enter` makes a user namespace
    users = not namespace.may_administer_network()
    namespace.enter()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kpf-demo-") as directory,
            ExitStack() as stack,
            stage.progress(len(ACTS) + 1),
        ):
            stage.doing("a node, pods, clients, and kpf")
            scene = Scene(Path(directory), stack)
            _introduce(stage, scene)
            for act in ACTS:
                act(stage, scene)
            if kept_until:
                keep(stage, scene, until=kept_until, users=users)
            stop(stage, scene)
    except FAILURES as error:
        stage.break_off(str(error))
    stage.summary(time.monotonic() - began_s)
    return 1 if stage.broken else 0


def _introduce(stage: Stage, scene: Scene) -> None:
    stage.say(
        f"A node ({NODE_ADDRESSES[0]}), a host of pods, and a host of clients outside, each in a network namespace "
        f"of its own. kpf run, ready after {scene.daemon.ready_s:.2f} s, serves two Services on {', '.join(MEMBERS)}: "
        f"shop (ClusterIP {SHOP[0]}, NodePort {NODE_PORT}) and cart (ClusterIP {CART[0]}, session affinity). "
        f"{SPARE} is a spare. Under load: {NEW_PER_S} new connections a second, and {ASKS_PER_S} questions a second on "
        f"{KEPT} kept ones. Times are to the first byte of the answer."
    )
