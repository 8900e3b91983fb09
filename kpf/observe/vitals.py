"""How kpf is: what the service manager shows of it, and whether it had better be started anew. Pure.

Only what a start would mend is a hang. None is: a kernel that carries out another program's transaction, however long;
an API server that is away; a sync that is refused or fails, and tried again; one worker that is stuck, which the master
replaces. `/healthz` tells others of those that concern them.
"""

from dataclasses import dataclass

# in the hands of kpf itself a step takes milliseconds, in a large cluster seconds
SYNC_LIMIT_S = 30.0
# a transaction of ours alone is shorter
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """As it is at the very start. `is_started`: all workers have been ready.

    `workers_alive`: those whose heartbeats are seen.

    `standing_s`: how long the sync under way has not come further, 0 while there is none; `in_kernel`: the kernel has a
    request of ours in hand. `waiting_s`: how long the oldest change waits. `troubles`: why the source does not tell.
    """

    is_started: bool = False
    synced: bool = False
    generation: int = 0
    services: int = 0
    workers: int = 0
    workers_alive: int = 0
    standing_s: float = 0.0
    in_kernel: bool = False
    waiting_s: float = 0.0
    troubles: tuple[str, ...] = ()

    def hang(self) -> str:
        """Why it does not live, "" if it does. That somebody asks says that the event loop runs."""
        if self.is_started and not self.workers_alive:
            return "no worker shows a heartbeat"
        if self.standing_s > SYNC_LIMIT_S and not self.in_kernel:
            return "a sync does not come to an end"
        return ""

    def text(self) -> str:
        """For people, in a line."""
        if not self.synced:
            said = ["waiting for the first sync" if self.is_started else "starting"]
        else:
            alive = f"{self.workers_alive} of {self.workers} workers"
            said = [f"generation {self.generation}, {self.services} Services, {alive}"]
        if self.synced and self.waiting_s >= SYNC_LIMIT_S:
            said.append(f"a change has waited for {self.waiting_s:.0f} s")
        if self.in_kernel and self.standing_s >= PATIENCE_S:
            said.append("waiting for the kernel to carry out a transaction")
        said += [f"the source does not tell what it has: {trouble}" for trouble in self.troubles]
        if hang := self.hang():
            said.append(f"hangs: {hang}")
        return "; ".join(said)
