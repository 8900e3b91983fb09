"""The configuration as one frozen value."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, PrivateAttr

from kpf.config import fields
from kpf.model.names import IPAddress, IPNetwork, SocketAddress
from kpf.places import DEFAULT_CONTROL_SOCKET

# "kp" above 2^16. No registry of ids gives it to anybody: systemd's leaves 65536..524287 unassigned (UIDS-GIDS),
# Debian's adduser gives nothing above 65535 by default (Debian policy 9.2.2), and shadow's ranges of subordinate ids
# begin at 100000 (login.defs(5), SUB_UID_MIN).
DEFAULT_WORKER_USER = 0x16B70

# only a restart changes them: where others look for this process, and what the kernel knows its workers and their
# listeners by
FIXED = ("proxy_address", "control_socket", "handover_socket", "worker_user")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    special = {"cidr": "CIDR", "cidrs": "CIDRs", "ips": "IPs"}
    return first + "".join(special.get(word, word.capitalize()) for word in rest)


def usable_cpus() -> int:
    """CPUs that this process may run on, at most 64."""
    return min(len(os.sched_getaffinity(0)), fields.MAX_WORKERS)


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=_camel,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


DetectLocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]


class ClientConnection(_Part):
    """`kubeconfig` is a file's path, "" for none."""

    kubeconfig: str = ""


class DetectLocal(_Part):
    """What `detectLocalMode` BridgeInterface and InterfaceNamePrefix look for."""

    bridge_interface: Annotated[str, PlainValidator(fields.interface)] = ""
    interface_name_prefix: Annotated[str, PlainValidator(fields.interface)] = ""


class Logging(_Part):
    """`level`: the lowest that is logged; in a file in either case. `format`: of the lines on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(fields.lower)] = "info"
    format: Literal["text", "json"] = "text"


class Metrics(_Part):
    """`per_endpoint`: whether there are series of each endpoint. `max_series`: of all Services, in one scrape."""

    per_endpoint: bool = True
    max_series: Annotated[int, PlainValidator(fields.max_series)] = 50_000


class Config(_Part):
    """Field names are those of the file in snake case; `master` is a flag only.

    Addresses and ranges are parsed: `bind_address` and `proxy_address` have at most one a family (a family without
    either has kpf's own, `kpf.netlink.own`), a listen address is None where it is off, `drain_timeout` is in seconds,
    0..86400. `on_exit`: what becomes of rules and workers at SIGTERM: both go, once open connections have had
    `drain_timeout`, or both stay for a successor, which asks for them at `handover_path`. `handover_timeout`: how many
    seconds, 0..604800, workers go on without a master, or after a successor has taken over. `node_port_addresses`
    empty: all local ones. `service_cidrs`: ranges whose addresses are dropped where no
    Service has them, beside those of the API's ServiceCIDR objects; any number of each family. `masquerade_all`:
    whatever the kernel forwards to a ClusterIP gets the node's address as its source; the remedy where replies would
    bypass the node, as on a bridge without br_netfilter. `worker_user`: the workers' uid and gid, which nobody else on
    the node may have: the kernel knows their dials by it.
    """

    manifests: str = ""
    client_connection: ClientConnection = ClientConnection()
    master: Annotated[str, PlainValidator(fields.url)] = ""
    hostname_override: Annotated[str, PlainValidator(fields.host_name)] = ""
    workers: Annotated[int, PlainValidator(fields.workers)] = Field(default_factory=usable_cpus)
    bind_address: Annotated[tuple[IPAddress, ...], PlainValidator(fields.bind_address)] = ()
    proxy_address: Annotated[tuple[IPAddress, ...], PlainValidator(fields.proxy_address)] = ()
    port_range: Annotated[fields.PortRange, PlainValidator(fields.port_range)] = fields.PortRange(20000, 29999)
    node_port_addresses: Annotated[
        tuple[IPNetwork, ...] | Literal["primary"], PlainValidator(fields.node_port_addresses)
    ] = ()
    detect_local_mode: DetectLocalMode | None = None
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: Annotated[tuple[IPNetwork, ...], PlainValidator(fields.cluster_cidr)] = ()
    healthz_bind_address: Annotated[SocketAddress | None, PlainValidator(fields.listen_address)] = SocketAddress(
        ip_address("0.0.0.0"), 10256
    )
    metrics_bind_address: Annotated[SocketAddress | None, PlainValidator(fields.listen_address)] = SocketAddress(
        ip_address("127.0.0.1"), 10249
    )
    control_socket: Annotated[str, PlainValidator(fields.socket_path)] = DEFAULT_CONTROL_SOCKET
    drain_timeout: Annotated[float, PlainValidator(fields.drain_seconds)] = 30.0
    on_exit: Literal["drop", "leave"] = "drop"
    handover_socket: Annotated[str, PlainValidator(fields.socket_path)] = ""
    handover_timeout: Annotated[float, PlainValidator(fields.handover_seconds)] = 3600.0
    logging: Logging = Logging()
    metrics: Metrics = Metrics()
    forwarding: Literal["auto", "proxied", "direct"] = "auto"
    allow_external_ips: bool = True
    masquerade_all: bool = False
    service_cidrs: Annotated[tuple[IPNetwork, ...], PlainValidator(fields.service_cidrs)] = ()
    worker_user: Annotated[int, PlainValidator(fields.user)] = DEFAULT_WORKER_USER

    _file_warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def file_warnings(self) -> tuple[str, ...]:
        """What its reader has to know of the file that it was made of."""
        return self._file_warnings

    def with_file_warnings(self, file_warnings: tuple[str, ...]) -> Self:
        """A copy that has these in place of its own: what its reader found, and no field holds."""
        copy = self.model_copy()
        copy._file_warnings = file_warnings
        return copy

    @property
    def handover_path(self) -> Path:
        """`handover_socket`, or what stands for it: beside the control socket."""
        return Path(self.handover_socket or Path(self.control_socket).with_name("handover.sock"))

    @property
    def source(self) -> tuple[object, ...]:
        """What says where the Services come from."""
        return self.manifests, self.client_connection, self.master, self.node_name

    @property
    def node_name(self) -> str:
        """This node's name: the override, or the host's."""
        return self.hostname_override or socket.gethostname().strip().lower()

    @property
    def local_detection(self) -> DetectLocalMode:
        """`detect_local_mode`, or what stands for it when it is not given."""
        return self.detect_local_mode or ("ClusterCIDR" if self.cluster_cidr else "NodeCIDR")


def contradictions(config: Config) -> list[tuple[str, str]]:
    """Fields that are valid each, and not together: (field, message)."""
    needs: list[tuple[bool, str, str]] = [
        (
            bool(config.manifests and (config.client_connection.kubeconfig or config.master)),
            "manifests",
            "cannot be given together with a kubeconfig or --master: there is one source",
        ),
        (
            not {one.version for one in config.bind_address}.isdisjoint(one.version for one in config.proxy_address),
            "proxyAddress",
            "has no use where bindAddress names an address of the same IP family",
        ),
        (
            config.local_detection == "ClusterCIDR" and not config.cluster_cidr,
            "clusterCIDR",
            "is required by detectLocalMode ClusterCIDR",
        ),
        (
            config.local_detection == "BridgeInterface" and not config.detect_local.bridge_interface,
            "detectLocal.bridgeInterface",
            "is required by detectLocalMode BridgeInterface",
        ),
        (
            config.local_detection == "InterfaceNamePrefix" and not config.detect_local.interface_name_prefix,
            "detectLocal.interfaceNamePrefix",
            "is required by detectLocalMode InterfaceNamePrefix",
        ),
        (
            config.healthz_bind_address is not None and config.healthz_bind_address == config.metrics_bind_address,
            "metricsBindAddress",
            "is the same as healthzBindAddress",
        ),
        (
            config.handover_path == Path(config.control_socket),
            "handoverSocket",
            "is the same as controlSocket",
        ),
        (
            not fields.fits_a_socket(str(config.handover_path)),
            "handoverSocket",
            "must be given: beside controlSocket its path would be too long",
        ),
    ]
    return [(field, message) for holds, field, message in needs if holds]


def reload_needs_restart(old: Config, new: Config) -> list[str]:
    """Names of attributes that differ and that only a restart can change."""
    return [name for name in FIXED if getattr(old, name) != getattr(new, name)]
