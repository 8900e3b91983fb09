"""What kube-proxy makes of Services, in its nftables and iptables modes.

Structure, order and priorities are those of Kubernetes 1.36 (pkg/proxy/nftables, pkg/proxy/iptables), and so are the
names of chains but for their hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kpf.lab.topology import NODE_ADDRESSES
from tests.e2e.rulesets import KUBE_POSTROUTING, Family, Ruleset, lines

SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
# of this node's own pods: others are masqueraded
POD_CIDRS = ("10.200.0.0/24", "fd00:10:200::/64")


@dataclass(frozen=True, slots=True)
class ServicePort:
    """What kube-proxy knows of one, of a single family.

    `protocol`: as nft writes it, and so is the `endpoint`, with its port; without one it has none. `ranges`: source
    ranges of the `balancer` addresses.
    """

    name: str
    protocol: str
    cluster_ip: str
    node_port: int
    endpoint: str = ""
    external: Sequence[str] = ()
    balancer: Sequence[str] = ()
    ranges: str = ""
    port: int = 80

    @property
    def beyond(self) -> tuple[str, ...]:
        """Its addresses but for the ClusterIP."""
        return (*self.external, *self.balancer)

    @property
    def path(self) -> str:
        return f"ABCDEFGH-default/{self.name}/{self.protocol}/"


@dataclass(slots=True)
class _Maps:
    """The elements of kube-proxy's sets and maps, and the chains of its Services."""

    elements: dict[str, list[str]] = field(default_factory=dict)
    chains: list[str] = field(default_factory=list)

    def add(self, name: str, element: str) -> None:
        self.elements.setdefault(name, []).append(element)

    def element_list(self, name: str) -> str:
        found = self.elements.get(name)
        return f"elements = {{ {', '.join(found)} }}" if found else ""


# before anything is rewritten, at dstnat - 10; and after it
_OUTPUT_CHAINS = """
    chain filter-output-pre-dnat {
        type filter hook output priority -110
        ct state new jump firewall-check
    }
    chain filter-output {
        type filter hook output priority filter
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }
"""
_EARLY_OUTPUT_CHAINS = """
    chain filter-output {
        type filter hook output priority -110
        ct state new jump service-endpoints-check
        ct state new jump firewall-check
    }
    chain filter-output-post-dnat {
        type filter hook output priority -90
        ct state new jump cluster-ips-check
    }
"""


def kube_proxy(family: Family, services: Sequence[ServicePort]) -> Ruleset:
    """The table of its nftables mode, as Kubernetes 1.34 and later patches of 1.33 make it."""
    return _kube_proxy(family, services, "filter", _OUTPUT_CHAINS)


def early_kube_proxy(family: Family, services: Sequence[ServicePort]) -> Ruleset:
    """The same as before: what has no endpoints is refused in output before anything is rewritten."""
    return _kube_proxy(family, services, "-110", _EARLY_OUTPUT_CHAINS)


def _kube_proxy(family: Family, services: Sequence[ServicePort], filter_priority: str, output_chains: str) -> Ruleset:
    six = family == "ip6"
    maps, address = _Maps(), "ipv6_addr" if six else "ipv4_addr"
    for one in services:
        _add_service(maps, family, one)
    portal, node_port = f"{address} . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict"
    text = f"""
table {family} kube-proxy {{
    comment "rules for kube-proxy"
    set cluster-ips {{ type {address}; {maps.element_list("cluster-ips")} }}
    set nodeport-ips {{ type {address}; elements = {{ {NODE_ADDRESSES[six]} }} }}
    map no-endpoint-services {{ type {portal}; {maps.element_list("no-endpoint-services")} }}
    map no-endpoint-nodeports {{ type {node_port}; {maps.element_list("no-endpoint-nodeports")} }}
    map firewall-ips {{ type {portal}; {maps.element_list("firewall-ips")} }}
    map service-ips {{ type {portal}; {maps.element_list("service-ips")} }}
    map service-nodeports {{ type {node_port}; {maps.element_list("service-nodeports")} }}
    chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
    chain reject-chain {{ reject; }}
{"".join(maps.chains)}
    chain firewall-check {{ {family} daddr . meta l4proto . th dport vmap @firewall-ips; }}
    chain service-endpoints-check {{ {family} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
    chain nodeport-endpoints-check {{
        {family} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
    }}
    chain cluster-ips-check {{
        {family} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
        {family} daddr {{ {SERVICE_CIDRS[six]} }} drop comment "Drop traffic to unallocated ClusterIPs"
    }}
    chain services {{
        {family} daddr . meta l4proto . th dport vmap @service-ips
        {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }}
    chain masquerading {{
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }}
    chain filter-prerouting-pre-dnat {{
        type filter hook prerouting priority -110
        ct state new jump firewall-check
    }}
    chain filter-input {{
        type filter hook input priority {filter_priority}
        ct state new jump nodeport-endpoints-check
        ct state new jump service-endpoints-check
    }}
    chain filter-forward {{
        type filter hook forward priority {filter_priority}
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }}
{output_chains}
    chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"""
    return Ruleset([f"{family} kube-proxy"], text)


def _add_service(maps: _Maps, family: Family, one: ServicePort) -> None:
    maps.add("cluster-ips", one.cluster_ip)
    if one.ranges:
        maps.chains.append(f"    chain firewall-{one.path} {{ {family} saddr != {{ {one.ranges} }} drop; }}\n")
        for address in one.balancer:
            maps.add("firewall-ips", f"{_key(one, address)} : goto firewall-{one.path}")
    if not one.endpoint:
        for address in (one.cluster_ip, *one.beyond):
            maps.add("no-endpoint-services", f"{_key(one, address)} : goto reject-chain")
        maps.add("no-endpoint-nodeports", f"{one.protocol} . {one.node_port} : goto reject-chain")
        return
    maps.chains.append(
        f"""
    chain endpoint-{one.path}gone {{ meta l4proto {one.protocol} dnat to {one.endpoint}; }}
    chain service-{one.path} {{
        {family} daddr {one.cluster_ip} {one.protocol} dport {one.port} {_foreign(family)} jump mark-for-masquerade
        numgen random mod 1 vmap {{ 0 : goto endpoint-{one.path}gone }}
    }}
    chain external-{one.path} {{
        jump mark-for-masquerade
        goto service-{one.path}
    }}
"""
    )
    maps.add("service-ips", f"{_key(one, one.cluster_ip)} : goto service-{one.path}")
    for address in one.beyond:
        maps.add("service-ips", f"{_key(one, address)} : goto external-{one.path}")
    maps.add("service-nodeports", f"{one.protocol} . {one.node_port} : goto external-{one.path}")


def _foreign(family: Family) -> str:
    return f"{family} saddr != {POD_CIDRS[family == 'ip6']}"


def _key(one: ServicePort, address: str) -> str:
    return f"{address} . {one.protocol} . {one.port}"


def kube_proxy_iptables(family: Family, services: Sequence[ServicePort]) -> Ruleset:
    """The chains of its iptables mode that tell Services apart, as iptables-nft keeps them."""
    nat: list[str] = []
    nat_ports: list[str] = []
    rejects: list[str] = []
    chains: list[str] = []
    for number, one in enumerate(services):
        addresses = {one.cluster_ip: f"KUBE-SVC-{number}", **dict.fromkeys(one.beyond, f"KUBE-EXT-{number}")}
        matches = {f"{family} daddr {at} {one.protocol} dport {one.port}": chain for at, chain in addresses.items()}
        node_port = f"{one.protocol} dport {one.node_port}"
        if not one.endpoint:
            rejects += [f"{match} counter reject" for match in matches]
            rejects.append(f"fib daddr type local {node_port} counter reject")
            continue
        nat += [f"{match} counter jump {chain}" for match, chain in matches.items()]
        nat_ports.append(f"{node_port} counter jump KUBE-EXT-{number}")
        chains.append(
            f"""
    chain KUBE-SEP-{number} {{ meta l4proto {one.protocol} counter dnat to {one.endpoint}; }}
    chain KUBE-SVC-{number} {{
        {_foreign(family)} {family} daddr {one.cluster_ip} counter jump KUBE-MARK-MASQ
        counter jump KUBE-SEP-{number}
    }}
    chain KUBE-EXT-{number} {{
        counter jump KUBE-MARK-MASQ
        counter jump KUBE-SVC-{number}
    }}
"""
        )
    text = f"""
table {family} nat {{
    chain KUBE-MARK-MASQ {{ counter meta mark set meta mark | 0x4000; }}
{"".join(chains)}
    chain KUBE-NODEPORTS {{
        {lines(nat_ports)}
    }}
    chain KUBE-SERVICES {{
        {lines(nat)}
        fib daddr type local counter jump KUBE-NODEPORTS
    }}
    chain PREROUTING {{ type nat hook prerouting priority dstnat; counter jump KUBE-SERVICES; }}
    chain OUTPUT {{ type nat hook output priority -100; counter jump KUBE-SERVICES; }}
{KUBE_POSTROUTING}
}}
table {family} filter {{
    chain KUBE-SERVICES {{
        {lines(rejects)}
    }}
    chain INPUT {{ type filter hook input priority filter; ct state new counter jump KUBE-SERVICES; }}
    chain FORWARD {{ type filter hook forward priority filter; ct state new counter jump KUBE-SERVICES; }}
    chain OUTPUT {{ type filter hook output priority filter; ct state new counter jump KUBE-SERVICES; }}
}}
"""
    return Ruleset([f"{family} nat", f"{family} filter"], text)
