"""Whether kpf would have to reach the API server through itself."""

from ipaddress import ip_address

import pytest

from kpf.model.names import ObjectName
from kpf.model.service import Service, ServiceType
from kpf.model.snapshot import Snapshot
from kpf.sources.api.address import circular

KUBERNETES = ObjectName("default", "kubernetes")
KNOWN = Snapshot(
    services={
        KUBERNETES: Service(
            KUBERNETES, ServiceType.CLUSTER_IP, cluster_ips=(ip_address("10.96.0.1"), ip_address("fd00::1"))
        )
    }
)


@pytest.mark.parametrize(
    "server",
    [
        "https://10.96.0.1:443",
        "https://[fd00::1]",
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local:443",
    ],
)
def test_the_api_servers_own_cluster_ip_is_a_circle(server: str) -> None:
    assert "which kpf itself serves" in circular(server, KNOWN)
    assert "--master URL" in circular(server, KNOWN)


@pytest.mark.parametrize("server", ["https://192.0.2.1:6443", "https://api.example.com", ""])
def test_a_real_address_is_none(server: str) -> None:
    assert circular(server, KNOWN) == ""


def test_as_long_as_nothing_is_known_addresses_are_not_suspected() -> None:
    assert circular("https://10.96.0.1:443", Snapshot()) == ""
