"""Short ways to write the model's values in tests."""

from ipaddress import ip_address

from kpf.model.endpoint import Endpoint, EndpointPort, EndpointSlice
from kpf.model.names import Family, ObjectName, Protocol, SocketAddress, family_of
from kpf.model.service import Service, ServicePort, ServiceType
from kpf.model.snapshot import Snapshot
from kpf.plan.node import NodeFacts

TCP, UDP = Protocol.TCP, Protocol.UDP


def at(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    return SocketAddress(ip_address(host.strip("[]")), int(port))


def service(name: str = "web", /, **fields: object) -> Service:
    """A Service of one port 80 at 10.96.0.1 unless the fields say otherwise; addresses may be given as text."""
    for key in ("cluster_ips", "external_ips", "load_balancer_ips"):
        if key in fields:
            fields[key] = tuple(ip_address(str(one)) for one in fields[key])  # type: ignore[attr-defined]
    values: dict[str, object] = {
        "type": ServiceType.CLUSTER_IP,
        "ports": (ServicePort("", TCP, 80),),
        "cluster_ips": (ip_address("10.96.0.1"),),
        "origin": f"{name}.yaml",
        **fields,
    }
    return Service(name=ObjectName("default", name), **values)  # type: ignore[arg-type]


def endpoints(
    *addresses: str | Endpoint, of: str = "web", name: str = "", port: int | None = 8080, port_name: str = ""
) -> EndpointSlice:
    """A slice of the addresses' family with one port."""
    made = tuple(one if isinstance(one, Endpoint) else Endpoint(ip_address(one)) for one in addresses)
    return EndpointSlice(
        name=ObjectName("default", name or f"{of}-1"),
        service=ObjectName("default", of),
        family=family_of(made[0].address) if made else Family.IPV4,
        ports=(EndpointPort(port_name, TCP, port),),
        endpoints=made,
        origin=f"{name or of}.yaml",
    )


def snapshot(*objects: Service | EndpointSlice) -> Snapshot:
    slices: dict[ObjectName, tuple[EndpointSlice, ...]] = {}
    for one in objects:
        if isinstance(one, EndpointSlice):
            slices[one.service] = (*slices.get(one.service, ()), one)
    return Snapshot(services={one.name: one for one in objects if isinstance(one, Service)}, slices=slices)


# FACTS are of a node on which nothing tells the workers' dials from others
WORKERS = 70_000

FACTS = NodeFacts(
    name="node-1",
    proxy_addresses={Family.IPV4: ip_address("192.168.1.10"), Family.IPV6: ip_address("fd00::10")},
    local_addresses=frozenset(map(ip_address, ("127.0.0.1", "::1", "192.168.1.10", "fd00::10"))),
)
