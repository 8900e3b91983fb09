"""How it ends: what clients notice of it, and what is left."""

import os
import time
from signal import SIGTERM

from kpf.demo.scene import NODE_PORT, SHOP, Scene
from kpf.demo.stage import Stage
from kpf.lab.clients import connect, failures, hold, names
from kpf.lab.listening import queues
from kpf.lab.tables import list_tables
from kpf.lab.topology import NODE_ADDRESSES

OPEN = 10
DROPPED = "new connections are dropped"
PATIENCE_S = 5.0
# a client that is not answered goes on trying; long enough for any answer
SILENCE_S = 0.3


def stop(stage: Stage, scene: Scene) -> None:
    """SIGTERM: who is connected may finish, then nothing is left."""
    stage.act("The end", f"SIGTERM, with {OPEN} open connections")
    daemon = scene.daemon
    pids = [daemon.pid, *daemon.worker_pids()]
    with scene.lab.outside.converse(hold, SHOP, OPEN) as held:
        opened = OPEN - len(failures(held.first))
        stage.doing("SIGTERM: open connections may finish")
        daemon.signal(SIGTERM)
        stage.wait_for(lambda: DROPPED in daemon.log(), PATIENCE_S)
        new = names(scene.lab.outside.call(connect, SHOP, timeout_s=SILENCE_S))
        cut = len(failures(held.send("ping")))
        held.send("close")
    closed_s = time.monotonic()
    stage.wait_for(lambda: daemon.exit_status() is not None, PATIENCE_S)
    ended_s = time.monotonic() - closed_s
    status = daemon.exit_status()
    refused = names(scene.lab.node.call(connect, (NODE_ADDRESSES[0], NODE_PORT)))
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    stage.claim(f"the {opened} open connections go on, {cut} are cut", opened == OPEN and not cut)
    stage.claim("new ones are dropped, not refused: the client's next try finds the next kpf", new == {"timed out": 1})
    stage.claim(f"it ends when the last connection does, with exit status {status}", status == 0)
    is_gone = list_tables() == [] and refused == {"ECONNREFUSED": 1}
    stage.claim("its rules are gone, and the NodePort is nobody's", is_gone)
    is_clean = not (left or queues() or daemon.control_socket.exists())
    stage.claim("no process, listening socket or control socket of it is left", is_clean)
    stage.result(f"{cut} of {opened} open connections cut; over {ended_s:.2f} s after the last")
