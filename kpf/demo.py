"""`kpf demo`: a complete show in a network namespace of its own, with everything real: nftables, kpf, pods, clients.

It claims things, checks each with numbers, and ends by itself. Nothing outside its namespace is touched, and nothing is
left of it: processes die with it, files are in a temporary directory.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from kpf.lab import namespace
from kpf.lab.backends import Backends
from kpf.lab.clients import Outcome, connect, failures, hold, median_first_byte_ms, names, steady
from kpf.lab.daemon import Daemon
from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.lab.topology import NODE_ADDRESSES, Lab, pod_address

CLUSTER_IP = "10.96.0.10"
NODE_PORT = 30080
POD_PORT = 8080
POD_NUMBERS = (11, 12, 13)
EACH = 100

INTERRUPTED = 130


class Stage:
    """What the audience sees: tables where there is a terminal, plain lines where not; and the claims."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
        self.broken = 0

    def say(self, text: str = "", style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False)

    def title(self, text: str) -> None:
        self.say()
        self.say(text, style="bold")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(*header, box=box.ROUNDED if self._console.is_terminal else box.ASCII)
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print(table)

    def claim(self, text: str, held: bool) -> None:
        self.say(f"{'  ok    ' if held else '  BROKEN'} {text}", style="green" if held else "bold red")
        self.broken += not held


class Show:
    """The scene: a Service `shop` of three pods, behind a running kpf."""

    def __init__(self, stage: Stage, directory: Path, stack: ExitStack) -> None:
        self.stage = stage
        self.lab = stack.enter_context(Lab())
        self.pods = {f"pod-{number}": pod_address(number) for number in POD_NUMBERS}
        self.lab.pods.add_addresses(self.pods.values())
        self.backends = stack.enter_context(Backends(self.lab.pods))
        for name, address in self.pods.items():
            self.backends.open(address, POD_PORT, name=name)
        manifests = Manifests(directory / "manifests")
        manifests.write(
            "shop.yaml",
            service("shop", cluster_ips=[CLUSTER_IP], type="NodePort", ports=[{"port": 80, "nodePort": NODE_PORT}]),
            endpoint_slice("shop", self.pods.values(), port=POD_PORT),
        )
        self.daemon = stack.enter_context(Daemon(self.lab.node, directory, manifests=manifests.directory))

    def even(self) -> None:
        """Connections one after another are shared out exactly, wherever they come from and by whatever address."""
        stage, count = self.stage, EACH * len(self.pods)
        stage.title(f"1. Exact fairness: {count} connections each way, one after another, over 2 worker processes")
        ways = (
            ("another host", self.lab.outside, (CLUSTER_IP, 80)),
            ("another host", self.lab.outside, (NODE_ADDRESSES[0], NODE_PORT)),
            ("the node itself", self.lab.node, (CLUSTER_IP, 80)),
            ("the node itself", self.lab.node, (NODE_ADDRESSES[0], NODE_PORT)),
            ("a pod", self.lab.pods, (CLUSTER_IP, 80)),
        )
        rows, exact = [], True
        for origin, machine, target in ways:
            answered = names(machine.call(connect, target, count))
            exact &= answered == dict.fromkeys(self.pods, EACH)
            kind = "ClusterIP" if target[0] == CLUSTER_IP else "NodePort"
            rows.append((origin, f"{kind} {target[0]}:{target[1]}", *_shares(answered, self.pods)))
        stage.table(("client on", "portal", *self.pods, "failed"), rows)
        stage.claim(f"every pod has exactly {EACH} of each {count}", exact)

    def dead_backends(self) -> None:
        """One pod is gone, another's machine is: clients do not notice, and kpf notices when they are back."""
        stage, count = self.stage, EACH * len(self.pods)
        alive, refusing, silent = self.pods
        stage.title(f"2. Dead pods: {refusing} refuses connections, {silent} does not answer at all")
        before = self._to_shop(count)
        self.backends.close(self.pods[refusing], POD_PORT)
        self.lab.pods.remove_address(self.pods[silent])
        during = self._to_shop(count)
        dials = self._dial_failures()
        self.backends.open(self.pods[refusing], POD_PORT, name=refusing)
        self.lab.pods.add_addresses([self.pods[silent]])
        back_s = self._until_all_answer(timeout_s=12.0)
        after = self._to_shop(count)
        rows = [
            (when, *_shares(names(outcomes), self.pods), f"{median_first_byte_ms(outcomes):.2f} ms", _slowest(outcomes))
            for when, outcomes in (("all alive", before), ("two dead", during), ("alive again", after))
        ]
        stage.table(("", *self.pods, "failed", "median to first byte", "slowest"), rows)
        stage.say(f"  dials of kpf that failed: {dials}; both pods are back in the round after {back_s:.1f} s")
        stage.claim(f"{count} of {count} clients are served by {alive}", names(during) == {alive: count})
        stage.claim("kpf met the dead pods, and they are even again", dials > 0 and _even(after, self.pods))

    def killed_worker(self) -> None:
        """A worker is killed under load: what is not its own goes on, and it is replaced."""
        stage, rate, duration_s, held_count = self.stage, 200, 3.0, 40
        stage.title(f"3. A killed worker: {rate} new connections a second, {held_count} long ones")
        ready = self.daemon.log().count("is ready")
        with (
            self.lab.outside.converse(hold, (CLUSTER_IP, 80), held_count) as held,
            self.lab.outside.begin(steady, (CLUSTER_IP, 80), rate, duration_s) as load,
        ):
            time.sleep(1.0)
            victim = self.daemon.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            replaced_s = self.daemon.wait_for_log("is ready", times=ready + 1)
            outcomes = load.result()
            cut = len(failures(held.send("ping")))
        own = sum(self.daemon.active_at_deaths().values())
        failed = len(failures(outcomes))
        rows = [
            ("new", len(outcomes), len(outcomes) - failed, failed, _slowest(outcomes)),
            ("long", held_count, held_count - cut, cut, ""),
        ]
        stage.table(("connections", "made", "went well", "failed", "slowest"), rows)
        stage.say(
            f"  worker {victim} had {own} connections when it died; its successor was ready {replaced_s:.2f} s later"
        )
        stage.claim("no more failed than the dead worker's own", failed + cut <= own)
        stage.claim("the long connections of the other worker went on", cut < held_count)
        stage.claim("the worker is replaced", victim not in self.daemon.worker_pids())

    def stop(self) -> None:
        status = self.daemon.stop(how=signal.SIGTERM)
        self.stage.title("4. The end")
        self.stage.claim(f"kpf stops cleanly (exit status {status})", status == 0)
        refused = names(self.lab.node.call(connect, (NODE_ADDRESSES[0], NODE_PORT)))
        self.stage.claim("its rules are gone", refused == {"ECONNREFUSED": 1})

    def _to_shop(self, count: int) -> list[Outcome]:
        return self.lab.outside.call(connect, (CLUSTER_IP, 80), count)

    def _dial_failures(self) -> int:
        (shop,) = self.daemon.status()["services"]
        return sum(endpoint["dialFailures"] for endpoint in shop["endpoints"])

    def _until_all_answer(self, *, timeout_s: float) -> float:
        start_s = time.monotonic()
        while time.monotonic() - start_s < timeout_s:
            if _even(self._to_shop(len(self.pods)), self.pods):
                break
            time.sleep(0.1)
        return time.monotonic() - start_s


def _shares(answered: dict[str, int], pods: dict[str, str]) -> tuple[int, ...]:
    return (*(answered.get(pod, 0) for pod in pods), sum(count for name, count in answered.items() if name not in pods))


def _even(outcomes: Sequence[Outcome], pods: dict[str, str]) -> bool:
    return names(outcomes) == dict.fromkeys(pods, len(outcomes) // len(pods))


def _slowest(outcomes: Sequence[Outcome]) -> str:
    return f"{max(outcome.first_byte_s for outcome in outcomes) * 1000:.0f} ms"


def _play(stage: Stage) -> None:
    with tempfile.TemporaryDirectory(prefix="kpf-demo-") as directory, ExitStack() as stack:
        show = Show(stage, Path(directory), stack)
        stage.say(
            f"A node ({NODE_ADDRESSES[0]}), a host with {len(show.pods)} pods and a host of clients, each in a network "
            f"namespace of its own.\nkpf run, ready after {show.daemon.ready_s:.2f} s, serves the Service shop: "
            f"ClusterIP {CLUSTER_IP}:80, NodePort {NODE_PORT}."
        )
        show.even()
        show.dead_backends()
        show.killed_worker()
        show.stop()


def main(argv: Sequence[str] = ()) -> int:
    """Play it; 0 if every claim held, 1 if one did not or the kernel refuses the namespaces."""
    about = "A complete show in a network namespace of its own."
    argparse.ArgumentParser(prog="kpf demo", description=about).parse_args(argv)
    stage = Stage()
    try:
        namespace.enter()
    except OSError as error:
        print(
            f"kpf demo: this machine does not let us make a network namespace ({error}): run it as root, or allow "
            "unprivileged user namespaces",
            file=sys.stderr,
        )
        return 1
    # who is started in the background by a shell without job control inherits that SIGINT is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began_s = time.monotonic()
    try:
        _play(stage)
    except KeyboardInterrupt:
        print("kpf demo: interrupted; everything is cleaned up", file=sys.stderr)
        return INTERRUPTED
    stage.say()
    verdict = "every claim held" if not stage.broken else f"{stage.broken} claims did not hold"
    stage.say(f"{verdict} ({time.monotonic() - began_s:.1f} s)", style="bold green" if not stage.broken else "bold red")
    return 1 if stage.broken else 0
