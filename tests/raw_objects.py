"""Services and EndpointSlices at random, as the API writes them: right, wrong, and at odds with each other.

There are few names, addresses and ports, so that objects meet: two Services claim one portal, endpoints are portals,
and the next object of a name is of another type, family or protocol.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

LONG = "n" * 63
NAMESPACES = ("default",) * 6 + (LONG,)
NAMES = (*(f"s{number}" for number in range(30)), LONG, "x" * 63)
# with what each mostly is
PORT_NAMES = {"": "TCP", "http": "TCP", "dns": "UDP", "p" * 63: "TCP"}
NUMBERS = (53, 80, 80, 443, 8080, 20000, 20001, 65535)
NODE_PORTS = (0, 0, *range(30000, 30012), 20000, 20001, 10256)
# of portals and of pods; also the node's own, and what nobody may have or dial
IPV4 = (
    *(f"10.96.0.{number}" for number in range(1, 30)),
    *(f"192.0.2.{number}" for number in range(1, 8)),
    *("192.168.1.10", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255"),
)
IPV6 = (
    *(f"fd00:96::{number:x}" for number in range(1, 30)),
    *(f"2001:db8::{number:x}" for number in range(1, 8)),
    *("fd00::10", "::1", "::", "fe80::1", "ff02::1"),
)
NO_ADDRESSES = ("::ffff:10.96.0.1", "10.96.0.01", "10.96.0.300", "10.96.0", "fe80::1%eth0", "", "x", "10.96.0.1:80")
PODS = (*(f"10.244.1.{number}" for number in range(1, 12)), *(f"10.244.2.{number}" for number in range(1, 12)))
PODS6 = tuple(f"fd00:10:244::{number:x}" for number in range(1, 20))
RANGES = (
    *("10.0.0.0/8", " 10.0.0.1/8 ", "10.1.0.0/16", "10.0.0.0/8", "192.168.1.0/24", "203.0.113.7/32"),
    *("fd00::/8", "fd00::10/128", "2001:db8::1/32", "::8/1", "0.0.0.0/1"),
)
NO_RANGES = ("nonsense", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "", "10.0.0.0/255.0.0.0", "::ffff:10.0.0.0/104")
FORWARDING = ("direct", "direct", "direct", "proxied", "auto", "", "Direct", "nonsense " * 40, None)
NODES = ("node-1", "node-1", "node-2", "node-3", "", None)
JUNK: tuple[Any, ...] = (None, "", "junk", -1, 65536, 10**40, 1.5, True, [], [None], {}, {"ip": 7}, "\0")


class RawObjects:
    """The same ones for the same `seed`."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def another(self) -> dict[str, Any]:
        made = self.service() if self._chance(0.5) else self.endpoint_slice()
        if self._chance(0.05):
            self._spoil(made)
        return made

    def pick(self, what: Sequence[Any]) -> Any:
        return self._random.choice(what)

    def _chance(self, how_often: float) -> bool:
        return self._random.random() < how_often

    def _some(self, what: Sequence[Any], most: int) -> list[Any]:
        """With duplicates."""
        return self._random.choices(what, k=self._random.randint(0, most))

    def _address(self, family: int, *others: Sequence[str]) -> str:
        if self._chance(0.01):
            return str(self.pick(NO_ADDRESSES))
        own = IPV4 if family == 4 else IPV6
        return str(self.pick(self.pick((own, *others))))

    def _spoil(self, made: dict[str, Any]) -> None:
        """Put junk in some place of it."""
        place: Any = made
        while isinstance(place, dict | list) and place:
            key = self.pick(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or self._chance(0.2):
                place[key] = self.pick(JUNK)
                return
            place = place[key]

    def _metadata(self, name: str, **fields: Any) -> dict[str, Any]:
        return {"name": name, "namespace": self.pick(NAMESPACES), **fields}

    def service(self) -> dict[str, Any]:
        kind = self.pick(("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer", "LoadBalancer"))
        if self._chance(0.08):
            kind = self.pick(("ExternalName", "", None, "Nonsense"))
        spec: dict[str, Any] = {"type": kind, "ports": self._ports(kind), **self._cluster_ips()}
        self._policies(spec)
        if self._chance(0.4):
            spec["externalIPs"] = [self._address(self.pick((4, 4, 6))) for _ in range(self._random.randint(1, 3))]
        if self._chance(0.3):
            spec["sessionAffinity"] = "ClientIP"
            if self._chance(0.7):
                timeout = self.pick((1, 10, 10800, 86400, 86400, None) if self._chance(0.95) else (0, 86401, 2**31 - 1))
                spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": timeout}}
        made: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "spec": spec}
        made["metadata"] = self._metadata(self.pick(NAMES), creationTimestamp=self.pick((None, *_TIMES)))
        if self._chance(0.5):
            made["metadata"]["annotations"] = {"kpf.io/forwarding": self.pick(FORWARDING), "a/b": "c"}
        if self._chance(0.02):
            made["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": ""}
        if kind == "LoadBalancer" or self._chance(0.05):
            made["status"] = {"loadBalancer": {"ingress": self._ingress(spec.get("externalIPs") or ())}}
        return made

    def _ports(self, kind: str | None) -> list[dict[str, Any]]:
        ports = []
        has_node_ports = kind in ("NodePort", "LoadBalancer") or self._chance(0.01)
        names = self._random.sample([*PORT_NAMES][1:], k=3)
        if self._chance(0.05):
            # as no server takes it today
            names = self._random.choices([*PORT_NAMES], k=3)
        one_number = self.pick(NUMBERS)
        for index in range(self.pick((1, 1, 2, 3))):
            port = {"name": names[index], "port": one_number if self._chance(0.4) else self.pick(NUMBERS)}
            port["protocol"] = self._protocol(names[index])
            if self._chance(0.01):
                port["protocol"] = "ICMP"
            if has_node_ports:
                port["nodePort"] = self.pick(NODE_PORTS)
            ports.append(port)
        if len(ports) == 1 and self._chance(0.4):
            del ports[0]["name"]
        return ports

    def _protocol(self, name: str) -> str | None:
        return PORT_NAMES[name] if self._chance(0.8) else self.pick(("TCP", "UDP", "UDP", "SCTP", "", None))

    def _cluster_ips(self) -> dict[str, Any]:
        if self._chance(0.03):
            return {"clusterIP": self.pick(("None", "", None)), "clusterIPs": self.pick(([], ["None"], None))}
        families = self.pick(((4,), (4,), (6,), (4, 6), (6, 4))) if self._chance(0.98) else (4, 4)
        addresses = [self._address(family) for family in families]
        return {"clusterIP": addresses[0], "clusterIPs": addresses}

    def _policies(self, spec: dict[str, Any]) -> None:
        is_reachable = spec["type"] in ("NodePort", "LoadBalancer") or self._chance(0.02)
        if self._chance(0.3):
            spec["internalTrafficPolicy"] = self.pick(("Cluster", "Local", "Local"))
        if is_reachable and self._chance(0.7):
            spec["externalTrafficPolicy"] = self.pick(("Cluster", "Local", "Local")) if self._chance(0.98) else "Remote"
        if spec["type"] == "LoadBalancer" and self._chance(0.6):
            spec["loadBalancerSourceRanges"] = self._some(RANGES, 5)
            if self._chance(0.1):
                spec["loadBalancerSourceRanges"].append(self.pick(("0.0.0.0/0", "::/0")))
            if self._chance(0.1):
                spec["loadBalancerSourceRanges"].append(self.pick(NO_RANGES))
        asks_for_health = spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
        if (asks_for_health and self._chance(0.7)) or self._chance(0.01):
            spec["healthCheckNodePort"] = self.pick(NODE_PORTS)

    def _ingress(self, external_ips: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(self._random.randint(0, 3)):
            address = self._address(self.pick((4, 6)), *([external_ips] if external_ips else []))
            found.append({"ip": address, "ipMode": self.pick(("VIP", "VIP", None, "Proxy"))})
        return [*found, {"hostname": "lb.example"}] if self._chance(0.2) else found

    def endpoint_slice(self) -> dict[str, Any]:
        family = self.pick((4, 4, 6))
        names = self._random.sample([*PORT_NAMES], k=self._random.randint(3, 4))
        ports = [
            {"name": name, "protocol": self._protocol(name), "port": self.pick((*NUMBERS, None))} for name in names
        ]
        made: dict[str, Any] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": self._metadata(f"slice-{self._random.randint(0, 99)}"),
            "addressType": f"IPv{family}" if self._chance(0.98) else self.pick(("FQDN", "IPv4", "IPv6")),
            "ports": ports,
            "endpoints": [self._endpoint(family) for _ in range(self.pick((0, 1, 2, 3, 8)))],
        }
        made["metadata"]["labels"] = {"kubernetes.io/service-name": self.pick(NAMES)}
        if self._chance(0.02):
            made["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
        return made

    def _endpoint(self, family: int) -> dict[str, Any]:
        pods = PODS if family == 4 else PODS6
        made: dict[str, Any] = {"addresses": [self._address(family, pods, pods, pods)], "nodeName": self.pick(NODES)}
        made["conditions"] = {
            one: self.pick((None, None, True, False) if self._chance(0.3) else (None,))
            for one in ("ready", "serving", "terminating")
        }
        if self._chance(0.3):
            for_nodes = self.pick((None, [{"name": "node-1"}]))
            made["hints"] = {"forZones": [{"name": self.pick("abc")}], "forNodes": for_nodes}
        return made


_TIMES = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00+01:00", "2026-01-03T00:00:00.5Z")
