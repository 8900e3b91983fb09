"""The test's handle on the test API server."""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import orjson

from kpf.lab.machine import Machine, wait_until
from tests.apiserver.certificates import Authority
from tests.apiserver.driver import Sent
from tests.apiserver.kubeconfig import Cluster, write
from tests.apiserver.misbehaviour import Misbehaviour
from tests.apiserver.process import DUMP_SIGNAL, serve
from tests.apiserver.requests import Asked
from tests.apiserver.resources import Object

ANSWER_LIMIT_S = 60.0


class ApiServer(Misbehaviour):
    """A process that serves the Kubernetes API, from `with` to the end of it.

    `resource` is always a plural ("services", "endpointslices", "nodes", "servicecidrs", "events"), None for all;
    `verb` is list, watch, create, or get of what is no resource (/version), None for all. `history`: how many changes
    are remembered for watches. `token`: one that is good from the start. Misbehaviour: the methods of its base class.
    """

    token = "initial-token"

    def __init__(self, *, host: str = "127.0.0.1", tls: bool = True, history: int = 10_000) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._directory = tempfile.TemporaryDirectory(prefix="kpf-apiserver-")
        directory = Path(self._directory.name)
        self._server_ca = Authority(directory, "server") if tls else None
        self._client_ca = Authority(directory, "client")
        self._certificate = self._server_ca.server(host, "localhost") if self._server_ca else None
        # bound, never listening: the port is ours also while the server refuses
        self._place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((host, 0))
        self.port: int = self._place.getsockname()[1]
        self._connection, theirs = Pipe()
        with theirs:
            self.process = Machine().fork(serve, theirs)
        self._connection.send(history)

    def __enter__(self) -> "ApiServer":
        self._ask("trust", ca_path=str(self._client_ca.ca_path), issuer=self._client_ca.issuer)
        self.set_tokens(self.token)
        self.settings(bookmark_interval_s=60.0)
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._connection.close()
        self._place.close()
        self._directory.cleanup()

    # ---- what it knows

    def put(self, obj: Object) -> int:
        """Create or replace; its resourceVersion."""
        return self.put_all([obj])

    def put_all(self, objects: Iterable[Object]) -> int:
        """Create or replace many at once; the last one's resourceVersion."""
        version: int = self._ask("put", objects=list(objects))
        return version

    def delete(self, kind: str, namespace: str, name: str) -> int:
        """The change's resourceVersion. A Node or ServiceCIDR has namespace "". Raises RuntimeError."""
        version: int = self._ask("delete", kind=kind, namespace=namespace, name=name)
        return version

    def truth(self, kind: str) -> list[Object]:
        """All objects of that kind as they are now."""
        objects: list[Object] = self._ask("truth", kind=kind)
        return objects

    def version(self) -> int:
        """The newest resourceVersion."""
        number: int = self._ask("version")
        return number

    def expire(self) -> None:
        """Compact: every resourceVersion and continue token handed out so far is too old (410)."""
        self._ask("expire")

    def restore(self, version: int) -> None:
        """Go back to the state of that version, as an etcd restore does; all connections are reset."""
        self._ask("restore", version=version)

    def settings(self, *, streaming_list: bool | None = None, bookmark_interval_s: float | None = None) -> None:
        """`streaming_list`: whether `sendInitialEvents` is known."""
        self._ask("settings", streaming_list=streaming_list, bookmark_interval_s=bookmark_interval_s)

    # ---- who may ask

    def set_tokens(self, *tokens: str) -> None:
        """Only these are good from now on, for the next request of any connection."""
        self._ask("tokens", tokens=tokens)

    def client_certificate(self, user: str = "kpf", *, lifetime_s: float = 3600.0) -> Path:
        """A file with certificate and key; a negative lifetime gives one that has expired."""
        return self._client_ca.client(user, lifetime_s=lifetime_s)

    def replace_client_ca(self) -> None:
        """Client certificates made so far are good no longer (401)."""
        self._client_ca.replace()
        self._ask("trust", ca_path=str(self._client_ca.ca_path), issuer=self._client_ca.issuer)
        self.listen()

    def replace_certificate(self, *, ca: bool = False) -> None:
        """The server shows another certificate to new connections; with `ca` one of another CA."""
        assert self._server_ca, "without TLS there is no certificate"
        if ca:
            self._server_ca.replace()
        self._certificate = self._server_ca.server(self._host, "localhost")
        self.listen()

    @property
    def ca_path(self) -> Path | None:
        """The CA of the server's certificate as it is now; None without TLS."""
        return self._server_ca.ca_path if self._server_ca else None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._certificate else 'http'}://{host}:{self.port}"

    def kubeconfig(
        self, path: Path, *, token: str | None = None, token_file: Path | None = None, client: Path | None = None
    ) -> Path:
        """Write one, that says what is right now; without credentials it has none. `client`: a client certificate.

        The CA is copied to a file beside it: written again, both are new.
        """
        return write(path, Cluster(self.url, self.ca_path), token=token, token_file=token_file, client=client)

    # ---- what it was asked

    def requests(self, resource: str | None = None, verb: str | None = None, *, since_s: float = 0.0) -> list[Asked]:
        """In order; since a moment of CLOCK_MONOTONIC."""
        return [
            asked
            for asked in (Asked(**one) for one in self._ask("requests"))
            if resource in (None, asked.resource) and verb in (None, asked.verb) and asked.time_s >= since_s
        ]

    def events(self) -> list[Object]:
        """The Events that were posted."""
        events: list[Object] = self._ask("events")
        return events

    def watching(self, resource: str | None = None) -> int:
        """How many watches are open."""
        number: int = self._ask("watching", named=resource)
        return number

    def wait_for_watches(self, *resources: str, timeout_s: float = 10.0) -> None:
        """Until each resource is watched. Raises TimeoutError."""
        wait_until(lambda: all(map(self.watching, resources)), timeout_s=timeout_s, what=f"watches of {resources}")

    def cpu_s(self) -> float:
        """CPU time that the server's process has used."""
        seconds: float = self._ask("cpu_s")
        return seconds

    # ---- the process

    def listen(self) -> None:
        """Take connections (again)."""
        self._ask("listen", host=self._host, port=self.port, certificate=self._certificate and str(self._certificate))

    def freeze(self) -> None:
        """Stop the process: the kernel still takes connections, nothing is answered, this class neither."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    # ---- load

    def drive(self, duration_s: float, rate: float, pattern: Sequence[str] = ("swap",) * 9 + ("flip",)) -> None:
        """Change EndpointSlices in turn, `rate` times a second; returns at once. See `Driver.start`."""
        self._ask("drive", duration_s=duration_s, rate=rate, pattern=pattern)

    def is_driving(self) -> bool:
        going_on: bool = self._ask("is_driving")
        return going_on

    def sent(self) -> list[Sent]:
        """What the last `drive` has sent so far."""
        return [Sent(*one) for one in self._ask("sent")]

    def _ask(self, command: str, **arguments: object) -> Any:
        with self._lock:
            self._connection.send_bytes(orjson.dumps([command, arguments]))
            if not self._connection.poll(ANSWER_LIMIT_S):
                state = self._state()
                raise TimeoutError(f"the API server did not answer {command!r} within {ANSWER_LIMIT_S:.0f} s{state}")
            value, error = orjson.loads(self._connection.recv_bytes())
        if error is not None:
            raise RuntimeError(error)
        return value

    def _state(self) -> str:
        """What the process does: in words of the kernel, and by itself to stderr."""
        process = Path(f"/proc/{self.process.pid}")
        os.kill(self.process.pid, DUMP_SIGNAL)
        time.sleep(1.0)
        kept = ("State:", "SigBlk:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
        lines = [line for line in (process / "status").read_text().splitlines() if line.startswith(kept)]
        return "; ".join(["", *lines, f"wchan: {(process / 'wchan').read_text()}"])
