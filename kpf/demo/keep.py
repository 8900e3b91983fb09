"""`kpf demo --keep`: the scene goes on for whoever wants to play, and says how to reach it."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Collection

from kpf.demo.scene import MEMBERS, NODE_PORT, SHOP, SPARE, Scene
from kpf.demo.stage import Stage
from kpf.lab.daemon import DaemonFailedError
from kpf.lab.topology import NODE_ADDRESSES

LONGEST_S = 3600.0
LOOK_S = 0.5
RESTORED_WITHIN_S = 5.0

# urllib would ask the environment for a proxy
REQUEST = """import http.client
connection = http.client.HTTPConnection("{}")
connection.request("GET", "/")
print(connection.getresponse().read().decode(), end="")"""
CURL = "curl --silent --show-error --noproxy '*' --max-time 5"


def keep(stage: Stage, scene: Scene, *, until: Collection[signal.Signals], users: bool) -> None:
    """Until one of these signals, an hour at most; then all is as before. `users`: in a user namespace of our own.

    Raises `DaemonFailedError` if kpf ends meanwhile.
    """
    stage.doing("pods that speak HTTP")
    for pod in scene.pods.values():
        pod.restart("http")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, until)
    try:
        _explain(stage, scene, users=users)
        until_s = time.monotonic() + LONGEST_S
        while time.monotonic() < until_s and not signal.sigtimedwait(until, LOOK_S):
            if scene.daemon.exit_status() is not None:
                raise DaemonFailedError(f"kpf run has ended with status {scene.daemon.exit_status()}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    stage.doing("all as it was")
    scene.restore()
    stage.wait_for(lambda: scene.endpoints().keys() == set(MEMBERS), RESTORED_WITHIN_S)


def _explain(stage: Stage, scene: Scene, *, users: bool) -> None:
    stage.say()
    stage.say("Now it is yours. In another terminal, as the same user:", style="bold")
    for what, command in _suggestions(scene, users=users):
        stage.say()
        stage.say(f"  {what}", indent=2)
        stage.say(f"    {command}", style="cyan", wraps=False)
    stage.say()
    stage.say(f"Ctrl-C here ends it; it ends by itself after {LONGEST_S / 60:.0f} minutes.", style="bold")
    stage.doing("Ctrl-C ends it")


def _suggestions(scene: Scene, *, users: bool) -> list[tuple[str, str]]:
    """What one can do, and the shell command that does it."""
    daemon, pods = scene.daemon, scene.pods
    on_node = f"nsenter -t {os.getpid()} {'-U --preserve-credentials ' if users else ''}-n"
    python = shlex.quote(sys.executable)
    request = shlex.quote(REQUEST.format(SHOP[0]).replace("\n", "; "))
    shop, config = (shlex.quote(str(path)) for path in (scene.manifests.directory / "shop.yaml", scene.config_path))
    first, last, spare = pods[MEMBERS[0]], pods[MEMBERS[-1]], pods[SPARE]
    pids = ", ".join(f"{pod.name} is {pod.pid}" for pod in pods.values())
    return [
        (
            "A request to the ClusterIP, from the node. Again, and the next pod answers:",
            f"{on_node} {CURL} http://{SHOP[0]}/",
        ),
        ("To the NodePort:", f"{on_node} {CURL} http://{NODE_ADDRESSES[0]}:{NODE_PORT}/"),
        ("Without curl:", f"{on_node} {python} -c {request}"),
        ("A shell on the node:", on_node),
        ("What kpf knows:", f"{python} -m kpf status --control-socket {shlex.quote(str(daemon.control_socket))}"),
        (
            f"{spare.name} instead of {last.name} (edit this file as you like):",
            f"sed -i s/{last.address}/{spare.address}/ {shop}",
        ),
        ("Another configuration:", f"sed -i s/text/json/ {config} && kill -HUP {daemon.pid}"),
        ("Its log:", f"tail {shlex.quote(str(daemon.log_path))}"),
        (f"A pod dies ({pids}):", f"kill -KILL {first.pid}"),
        ("A worker dies; kpf status shows its successor:", f"kill -KILL {daemon.worker_pids()[0]}"),
    ]
