"""kpf.service of this checkout on a machine with systemd, asked as an administrator asks."""

import json
import re
import subprocess
from typing import Any

from kpf.lab.machine import wait_until
from kpf.lab.manifests import Manifests
from kpf.lab.tables import list_tables
from tests.systemd.images import CHECKOUT
from tests.systemd.machine import SystemdMachine

KPF = "/opt/kpf/bin/kpf"
WORKERS = 2
DEATH = re.compile(r"\(pid (\d+)\) died by .* with (\d+) active connections")

NO_API_SERVER = """\
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""

Entry = dict[str, Any]


class Unit:
    """Installed as its first lines say, with the configuration beside it; not started."""

    def __init__(self, machine: SystemdMachine) -> None:
        self.machine = machine
        self.configuration = machine.files / "etc/kpf/kpf.yaml"
        self.configuration.parent.mkdir(exist_ok=True)
        self.manifests = Manifests(self.configuration.parent / "manifests")
        places = {
            "kpf.service": "etc/systemd/system",
            "kpf-leftovers.service": "etc/systemd/system",
            "kpf.yaml": "etc/kpf",
        }
        for name, place in places.items():
            (machine.files / place / name).write_bytes((CHECKOUT / "systemd" / name).read_bytes())
        self.configure(f"workers: {WORKERS}")
        machine.output("systemctl", "daemon-reload")
        self._cursor = machine.output("journalctl", "--lines=0", "--show-cursor").partition("cursor: ")[2].strip()

    def configure(self, *lines: str) -> None:
        """Add lines to the configuration."""
        with self.configuration.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def follow_no_api_server(self) -> None:
        """From its next start on: one that refuses, in place of the manifests."""
        (self.machine.files / "etc/kpf/kubeconfig").write_text(NO_API_SERVER, encoding="utf-8")
        text = self.configuration.read_text(encoding="utf-8")
        source = "clientConnection: {kubeconfig: /etc/kpf/kubeconfig}"
        self.configuration.write_text(text.replace("manifests: /etc/kpf/manifests", source), encoding="utf-8")

    def systemctl(self, verb: str, *options: str, timeout_s: float = 90.0) -> "subprocess.CompletedProcess[str]":
        """`systemctl VERB kpf`, whatever its status is. Raises `TimeoutExpired`."""
        return self.machine.run("systemctl", verb, *options, "kpf", timeout_s=timeout_s)

    def start(self) -> None:
        """And wait for READY=1, as systemctl does. Raises AssertionError if it does not come."""
        done = self.systemctl("start")
        assert done.returncode == 0, done.stderr

    def show(self, name: str) -> str:
        """A property's value."""
        return self.machine.output("systemctl", "show", "--value", f"--property={name}", "kpf").strip()

    @property
    def state(self) -> str:
        """ActiveState: active, activating, failed, ..."""
        return self.show("ActiveState")

    @property
    def master(self) -> int:
        """Its pid on the machine; 0 if there is none."""
        return int(self.show("MainPID"))

    def workers(self) -> list[int]:
        """Their pids on the machine. Raises `CalledProcessError` if the daemon does not answer."""
        status = json.loads(self.machine.output(KPF, "status", "--json"))
        return [worker["pid"] for worker in status["workers"] if worker["pid"]]

    def signal(self, name: str, pid: int) -> None:
        """To one process. Raises `CalledProcessError` if it is not there."""
        self.machine.output("kill", "-s", name, str(pid))

    def kill_master(self) -> int:
        """The pid of the one that is there, or comes, once systemd knows of its death. Raises `TimeoutError`."""
        wait_until(lambda: self.master != 0, what="a master")
        pid = self.master
        self.signal("KILL", pid)
        wait_until(lambda: self.master != pid, what="its death")
        return pid

    def of_process(self, pid: int) -> dict[str, str]:
        """The fields of its /proc/PID/status. Raises `CalledProcessError` if it is not there."""
        lines = self.machine.output("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def journal(self) -> list[Entry]:
        """What kpf has said since it was installed here, systemd's own words about it left out."""
        return [entry for entry in self._entries() if entry.get("_SYSTEMD_UNIT") == "kpf.service"]

    def said(self, text: str) -> list[Entry]:
        """Those entries of the journal that have the text."""
        return [entry for entry in self.journal() if text in entry["MESSAGE"]]

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 20.0) -> float:
        """Seconds until the journal has that many entries with the text. Raises `TimeoutError`."""
        return wait_until(lambda: len(self.said(text)) >= times, timeout_s=timeout_s, what=f"{text!r} in the journal")

    def everything_said(self) -> str:
        """systemd's words about it, too: for people."""
        return "\n".join(f"<{entry.get('PRIORITY')}> {entry['MESSAGE']}" for entry in self._entries())

    def _entries(self) -> list[Entry]:
        self.machine.output("journalctl", "--sync")
        command = ("journalctl", "--unit=kpf", "--output=json", "--no-pager", f"--after-cursor={self._cursor}")
        return [json.loads(line) for line in self.machine.output(*command).splitlines()]

    def tables(self) -> list[str]:
        """The machine's nftables tables of family inet."""
        with self.machine.node.inside():
            return list_tables()

    def await_another(self, former: int, *, timeout_s: float) -> float:
        """Seconds until another master than that one has taken over. Raises `TimeoutError`."""
        return wait_until(
            lambda: self.master not in (0, former) and self.state == "active", timeout_s=timeout_s, what="a new master"
        )

    def remove(self) -> None:
        """Stop it by all means; nothing of it is left, and nothing held against it."""
        self.machine.output("rm", "-rf", "/etc/kpf/manifests")
        for command in (
            ("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "kpf"),
            ("systemctl", "stop", "kpf"),
            ("systemctl", "reset-failed", "kpf"),
            (KPF, "cleanup"),
        ):
            self.machine.run(*command)
        assert self.tables() == []
