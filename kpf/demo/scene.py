"""The scene: a node with a running kpf, four pods, and a host full of clients.

Two Services: `shop`, in turn over three of the pods (the fourth is a spare), and `cart`, each client at one pod.
"""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP
from typing import Any, Self

import yaml

from kpf.lab.backends import Backends, Mode
from kpf.lab.clients import Address
from kpf.lab.daemon import Daemon
from kpf.lab.hosts import Host
from kpf.lab.load import Load, UnderLoad
from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.lab.topology import Lab, pod_address

SHOP: Address = ("10.96.0.10", 80)
CART: Address = ("10.96.0.11", 80)
NODE_PORT = 30080
POD_PORT = 8080
MEMBERS = ("pod-11", "pod-12", "pod-13")
SPARE = "pod-14"
PODS = (*MEMBERS, SPARE)
WORKERS = 2
# nobody waits long for the end of the show
DRAIN_TIMEOUT_S = 5
# under load: new connections, and questions on kept ones
NEW_PER_S = 200
ASKS_PER_S = 100
KEPT = 30


class Pod:
    """A server in a process of its own, with an address of its own on the pods' host."""

    def __init__(self, host: Host, name: str, address: str) -> None:
        self._host, self.name, self.address = host, name, address
        host.add_addresses([address])
        self.start()

    @property
    def pid(self) -> int:
        """Of its server; another one after each `start`."""
        return self._server.process.pid

    def start(self, mode: Mode = "greet") -> None:
        """A new process that serves at `POD_PORT`; the one before has ended. Raises OSError if it cannot listen."""
        self._server = Backends(self._host)
        self._server.open(self.address, POD_PORT, name=self.name, mode=mode)

    def kill(self) -> None:
        """SIGKILL: what is open is reset, what comes is refused."""
        self._server.stop()

    def restart(self, mode: Mode) -> None:
        """As a new process, in another mode; what was open is reset."""
        self.kill()
        self.start(mode)

    def vanish(self) -> None:
        """As if its machine were gone: nothing answers any more."""
        self._host.remove_address(self.address)

    def come_back(self) -> None:
        """Undo `vanish`: the server has gone on all the while, connections included."""
        self._host.add_addresses([self.address])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Scene:
    """To be made in a namespace of one's own; all is over with `stack`, with its files in `directory`.

    Raises `NamespaceRefusedError`, and `DaemonFailedError` if kpf does not start.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.lab = stack.enter_context(Lab())
        self.pods = {
            name: stack.enter_context(Pod(self.lab.pods, name, pod_address(int(name.removeprefix("pod-")))))
            for name in PODS
        }
        self.manifests = Manifests(directory / "manifests")
        self.config_path = directory / "kpf.yaml"
        self.write_all()
        args = ("--config", str(self.config_path))
        self.daemon = stack.enter_context(
            Daemon(self.lab.node, directory, manifests=self.manifests.directory, workers=WORKERS, args=args)
        )

    def write_all(self) -> None:
        """Manifests and configuration as they are between the acts."""
        self.serve_shop(MEMBERS)
        self._serve("cart", CART[0], MEMBERS, sessionAffinity="ClientIP")
        self.configure(log_format="text")

    def serve_shop(self, pods: Collection[str]) -> None:
        """Write the manifest of `shop` with these pods."""
        self._serve("shop", SHOP[0], pods, type="NodePort", ports=[{"port": 80, "nodePort": NODE_PORT}])

    def _serve(self, name: str, cluster_ip: str, pods: Collection[str], **spec: Any) -> None:
        slices = endpoint_slice(name, [self.pods[pod].address for pod in pods], port=POD_PORT)
        self.manifests.write(f"{name}.yaml", service(name, cluster_ips=[cluster_ip], **spec), slices)

    def configure(self, *, log_format: str) -> None:
        """Write the configuration file, which is read at the start and at SIGHUP."""
        fields = {
            "apiVersion": "kpf.io/v1alpha1",
            "kind": "KpfConfiguration",
            "drainTimeout": DRAIN_TIMEOUT_S,
            # of a show that breaks off: its workers are not to be there for an hour
            "handoverTimeout": DRAIN_TIMEOUT_S,
            "logging": {"format": log_format},
        }
        self.config_path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")

    def restore(self) -> None:
        """Whatever somebody has done to the pods and the files: as between the acts, before long."""
        for pod in self.pods.values():
            pod.restart("greet")
        self.write_all()
        self.daemon.signal(SIGHUP)

    def load(self, *, kept_at: Collection[str] = ()) -> UnderLoad:
        """Clients of the outside host: new connections, and kept ones that ask. Raises `CallFailedError`."""
        return UnderLoad(self.lab.outside, Load(SHOP, NEW_PER_S, KEPT, asks_per_s=ASKS_PER_S, kept_at=kept_at))

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """The status of `shop`'s endpoints, by pod. Raises `OSError` if the daemon does not answer."""
        names = {f"{pod.address}:{POD_PORT}": name for name, pod in self.pods.items()}
        return {names[endpoint["address"]]: endpoint for endpoint in self.daemon.service("shop")["endpoints"]}

    def workers(self) -> list[dict[str, Any]]:
        """Of `kpf status --json`: one entry a slot, in their order. Raises `OSError` if the daemon does not answer."""
        workers: list[dict[str, Any]] = self.daemon.status()["workers"]
        return workers
