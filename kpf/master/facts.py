"""This node as the plan sees it: its addresses, read at start and whenever the kernel says that they have changed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from kpf.config import Config
from kpf.master.identity import worker_user
from kpf.model.names import Family, Forwarding, IPAddress, IPNetwork, family_of
from kpf.model.rules import OwnPods
from kpf.model.snapshot import Snapshot
from kpf.netlink.addresses import AddressWatch, NodeAddresses, primary_address
from kpf.netlink.own import DEFAULT, choose, own_addresses, put, range_of, take_away, without_own
from kpf.netlink.socket import NOT_ALLOWED
from kpf.plan.node import NodeFacts

log = logging.getLogger("kpf")

RETRY_S = 1.0
ZONE = "topology.kubernetes.io/zone"
BRIDGES_FILTER = tuple(Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}") for name in ("iptables", "ip6tables"))
# there if the kernel tracks SCTP, which it must to forward it
SCTP = Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")


class NodeWatch:
    """Keeps the node's addresses up to date, and those of kpf's own on `lo`.

    `facts` makes of them what the plan wants to know.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._watch = AddressWatch()
        self._asked = {**DEFAULT, **{family_of(one): one for one in config.proxy_address}}
        self._found = self._others = NodeAddresses()
        self._own: dict[Family, IPAddress] = {}
        self._put: set[IPAddress] = set()
        self._sent_to: set[IPAddress] = set()
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
        """This node's, as its API object is called: `hostname_override`, or the host's."""
        return self._config.node_name

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """All that this node has, kpf's own included."""
        return self._found.all()

    def configure(self, config: Config) -> None:
        """Take the fields that may change while running from a new configuration; `hold` is due then."""
        self._config = config
        self._take(self._found)

    def workers_are(self, uid: int | None) -> None:
        """Their dials are known by their uid if that is the one which they were to have."""
        self.worker_uid = uid if uid == self._config.worker_user else None

    async def start(self) -> None:
        """Look, and change nothing. Raises OSError."""
        self._take(await self._watch.read())

    async def hold(self) -> None:
        """Put the addresses that proxies are to listen on onto `lo`. Raises OSError if we may not.

        Where that cannot be had, the node's primary address stands for it.
        """
        there = own_addresses(self._found, self._asked.values())
        for family, address in list(self._own.items()):
            if address in there:
                continue
            if address in self._put:
                log.warning("somebody has taken %s from lo: it is put back", address)
            try:
                await put(address)
            except OSError as error:
                if error.errno in NOT_ALLOWED:
                    raise
                self._say_once(f"{address} cannot be put on lo, {family} proxies listen at the node's own: {error}")
                del self._own[family]
            else:
                self._put.add(address)

    async def release(self) -> None:
        """Take away all that this kpf, or one before it, has put there. Raises OSError."""
        for address in own_addresses(await self._watch.read(), self._asked.values()):
            await take_away(address)

    async def undo_hold(self) -> None:
        """Take away what `hold` has put there, and nothing that was there before. Raises OSError."""
        for address in self._put:
            await take_away(address)

    async def changes(self) -> AsyncIterator[frozenset[IPAddress]]:
        """Whenever `facts` may have changed: the addresses that have gone and that portals were sent to.

        Never ends by itself.
        """
        while True:
            try:
                # begins with a look: what has changed meanwhile is not missed
                async for addresses in self._watch.changes():
                    if addresses != self._found:
                        gone = self._sent_to & (self.addresses - addresses.all())
                        self._take(addresses)
                        await self.hold()
                        # what has been put back has not gone
                        yield frozenset(gone.difference(self._own.values()))
            except OSError as error:
                log.warning("this node's addresses cannot be read, the last known ones stay: %s", error)
                await asyncio.sleep(RETRY_S)

    def facts(self, snapshot: Snapshot) -> NodeFacts:
        """What a plan has to know of this node, by the addresses last seen. What cannot be had is logged once.

        Remembers which proxy addresses it names: `changes` says when one of them goes.
        """
        facts = node_facts(self._config, self._others, snapshot, self._say_once, own=self._own)
        self._sent_to.update(facts.proxy_addresses.values())
        return replace(facts, worker_uid=self.worker_uid)

    def _take(self, found: NodeAddresses) -> None:
        asked = self._asked
        self._found, self._others = found, without_own(found, asked.values())
        bound = {family_of(one) for one in self._config.bind_address}
        own = {}
        for family in asked.keys() - bound:
            primary = primary_address(family, asked=(), node_ips=(), known=self._others)
            # who has loopback only is served there; who had more will have it again
            if primary is None or (primary.is_loopback and family not in self._own):
                continue
            address = choose(asked[family], found, self._own.get(family))
            if address is None:
                self._say_once(f"somebody has every address of {range_of(asked[family])}: {primary} stands for one")
            else:
                own[family] = address
        self._own = own

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning("%s", message)


def node_facts(
    config: Config,
    addresses: NodeAddresses,
    snapshot: Snapshot,
    warn: Callable[[str], None],
    *,
    own: Mapping[Family, IPAddress],
) -> NodeFacts:
    """Says through `warn` what is amiss. Pure, but for a look at what the kernel has.

    `own`: kpf's own addresses, which are not among `addresses`. They make no family served.
    """
    primaries = _primaries(config, addresses, snapshot, warn)
    own = {family: own[family] for family in primaries if family in own}
    return NodeFacts(
        name=config.node_name,
        proxy_addresses={**primaries, **own},
        own_addresses=frozenset(own.values()),
        wildcard=frozenset(Family(ip.version) for ip in config.bind_address if ip.is_unspecified),
        local_addresses=addresses.all(),
        node_port_networks=_node_port_networks(config, primaries),
        zone=snapshot.node.labels.get(ZONE, "") if snapshot.node else "",
        forwarding=None if config.forwarding == "auto" else Forwarding(config.forwarding),
        has_sctp=SCTP.exists(),
        own_pods=_own_pods(config, snapshot),
        masquerade_all=config.masquerade_all,
        masquerade_bridged=not _bridges_filter(),
        service_cidrs=(*config.service_cidrs, *snapshot.service_cidrs),
        external_ips_allowed=config.allow_external_ips,
        pod_networks=_pod_networks(snapshot, primaries),
        own_listeners=tuple(one for one in (config.healthz_bind_address, config.metrics_bind_address) if one),
    )


def _primaries(
    config: Config, addresses: NodeAddresses, snapshot: Snapshot, warn: Callable[[str], None]
) -> dict[Family, IPAddress]:
    """The address that stands for this node, of each family that is served."""
    node_ips = snapshot.node.internal_ips if snapshot.node else ()
    primaries: dict[Family, IPAddress] = {}
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
        primaries[family] = address
    return primaries


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


def _pod_networks(snapshot: Snapshot, primaries: Mapping[Family, IPAddress]) -> tuple[IPNetwork, ...]:
    """The Node's podCIDRs, but none that this node is in itself: that is not what its pods are from.

    The cluster's range overlaps the network of its nodes then, and its network plugin gives addresses by itself.
    """
    if snapshot.node is None:
        return ()
    nodes = {*snapshot.node.internal_ips, *primaries.values()}
    return tuple(network for network in snapshot.node.pod_cidrs if not any(one in network for one in nodes))


def _node_port_networks(config: Config, primaries: Mapping[Family, IPAddress]) -> tuple[IPNetwork, ...]:
    if config.node_port_addresses == "primary":
        return tuple(ip_network(address) for address in primaries.values())
    return config.node_port_addresses
