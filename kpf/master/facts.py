"""This node as the plan sees it: its addresses, read at start and whenever the kernel says that they have changed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from kpf.config import Config
from kpf.master.identity import worker_user
from kpf.model.names import Family, Forwarding, IPAddress, IPNetwork
from kpf.model.rules import OwnPods
from kpf.model.snapshot import Snapshot
from kpf.netlink.addresses import AddressWatch, NodeAddresses, primary_address
from kpf.plan.node import NodeFacts

log = logging.getLogger("kpf")

RETRY_S = 1.0
ZONE = "topology.kubernetes.io/zone"
BRIDGES_FILTER = tuple(Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}") for name in ("iptables", "ip6tables"))
# there if the kernel tracks SCTP, which it must to forward it
SCTP = Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")


class NodeWatch:
    """Keeps the node's addresses up to date; `facts` makes of them what the plan wants to know."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._watch = AddressWatch()
        self._addresses = NodeAddresses()
        self._said: set[str] = set()
        self.worker_uid: int | None = None

    @classmethod
    def read(cls, config: Config) -> "NodeWatch":
        """One that has looked once, outside of an event loop. Raises OSError."""
        watch = cls(config)
        watch.workers_are(worker_user(config.worker_user))
        asyncio.run(watch.start())
        return watch

    @property
    def name(self) -> str:
        return self._config.node_name

    def configure(self, config: Config) -> None:
        """Take the fields that may change while running from a new configuration."""
        self._config = config

    def workers_are(self, uid: int | None) -> None:
        """Their dials are known by their uid if that is the one which they were to have."""
        self.worker_uid = uid if uid == self._config.worker_user else None

    async def start(self) -> None:
        self._addresses = await self._watch.read()

    async def changes(self) -> AsyncIterator[None]:
        """Yield whenever `facts` may have changed. Never ends by itself."""
        while True:
            try:
                # begins with a look: what has changed meanwhile is not missed
                async for addresses in self._watch.changes():
                    if addresses != self._addresses:
                        self._addresses = addresses
                        yield
            except OSError as error:
                log.warning("this node's addresses cannot be read, the last known ones stay: %s", error)
                await asyncio.sleep(RETRY_S)

    def facts(self, snapshot: Snapshot) -> NodeFacts:
        facts = node_facts(self._config, self._addresses, snapshot, self._say_once)
        return replace(facts, worker_uid=self.worker_uid)

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning("%s", message)


def node_facts(config: Config, addresses: NodeAddresses, snapshot: Snapshot, warn: Callable[[str], None]) -> NodeFacts:
    """Says through `warn` what is amiss. Pure, but for a look at what the kernel has."""
    node_ips = snapshot.node.internal_ips if snapshot.node else ()
    proxy_addresses: dict[Family, IPAddress] = {}
    local = addresses.all()
    for family in Family:
        address = primary_address(family, asked=config.bind_address, node_ips=node_ips, known=addresses)
        if address is not None and address not in local and not address.is_loopback:
            warn(f"bindAddress {address} is no address of this node: Services are not served over {family} until it is")
            continue
        if address is None:
            warn(f"this node has no {family} address: Services are not served over {family}")
            continue
        if address.is_loopback and address not in config.bind_address:
            warn(f"{address} is the only {family} address: only this node's own processes are served over {family}")
        proxy_addresses[family] = address
    return NodeFacts(
        name=config.node_name,
        proxy_addresses=proxy_addresses,
        wildcard=frozenset(Family(ip.version) for ip in config.bind_address if ip.is_unspecified),
        local_addresses=local,
        node_port_networks=_node_port_networks(config, proxy_addresses),
        zone=snapshot.node.labels.get(ZONE, "") if snapshot.node else "",
        forwarding=None if config.forwarding == "auto" else Forwarding(config.forwarding),
        has_sctp=SCTP.exists(),
        own_pods=_own_pods(config, snapshot),
        masquerade_all=config.masquerade_all,
        masquerade_bridged=not _bridges_filter(),
        service_cidrs=(*config.service_cidrs, *snapshot.service_cidrs),
        external_ips_allowed=config.allow_external_ips,
        pod_networks=snapshot.node.pod_cidrs if snapshot.node else (),
        own_listeners=(config.healthz_bind_address,) if config.healthz_bind_address else (),
    )


def _bridges_filter() -> bool:
    """Whether rules see what goes from port to port of a bridge, of both families."""
    try:
        return all(path.read_text(encoding="ascii").strip() == "1" for path in BRIDGES_FILTER)
    except OSError:
        return False


def _own_pods(config: Config, snapshot: Snapshot) -> OwnPods:
    """As kube-proxy's detectLocalMode (Kubernetes 1.36, pkg/proxy/util/localdetector.go)."""
    match config.local_detection:
        case "ClusterCIDR":
            return OwnPods(config.cluster_cidr)
        case "NodeCIDR":
            return OwnPods(snapshot.node.pod_cidrs if snapshot.node else ())
        case "BridgeInterface":
            return OwnPods(interface=config.detect_local.bridge_interface)
        case "InterfaceNamePrefix":
            return OwnPods(interface=config.detect_local.interface_name_prefix, is_prefix=True)


def _node_port_networks(config: Config, proxy_addresses: dict[Family, IPAddress]) -> tuple[IPNetwork, ...]:
    if config.node_port_addresses == "primary":
        return tuple(ip_network(address) for address in proxy_addresses.values())
    return config.node_port_addresses
