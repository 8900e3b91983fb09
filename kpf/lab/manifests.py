"""Services and EndpointSlices for tests and demos, and a directory of them that changes as an editor's files do."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


def service(
    name: str,
    *,
    namespace: str = "default",
    ports: Sequence[Mapping[str, Any]] = ({"port": 80},),
    cluster_ips: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A Service; more of `spec` (type, externalIPs, sessionAffinity, ...) in the API's words.

    A port without a name is the only one; its protocol is TCP unless it says otherwise.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "annotations": dict(annotations or {})},
        "spec": {
            "clusterIP": cluster_ips[0] if cluster_ips else "",
            "clusterIPs": list(cluster_ips),
            "ports": [{"protocol": "TCP", **port} for port in ports],
            **spec,
        },
    }


def with_ingress(service: Object, *addresses: str) -> Object:
    """The Service with load-balancer addresses."""
    return {**service, "status": {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}}


def endpoint_slice(
    service: str,
    addresses: Iterable[str],
    *,
    port: int,
    namespace: str = "default",
    port_name: str = "",
    suffix: str = "1",
    node_name: str | None = None,
    conditions: Mapping[str, bool] | None = None,
    protocol: str = "TCP",
) -> Object:
    """An EndpointSlice of one port, for addresses of one family; all endpoints alike, on `node_name`."""
    listed = list(addresses)
    common: Object = {"conditions": dict(conditions or {"ready": True})}
    if node_name is not None:
        common["nodeName"] = node_name
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{suffix}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv6" if any(":" in address for address in listed) else "IPv4",
        "endpoints": [{"addresses": [address], **common} for address in listed],
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
    }


def node(name: str, *, internal_ips: Sequence[str], pod_cidrs: Sequence[str]) -> Object:
    """A Node with its addresses of type InternalIP; the first of the ranges is `podCIDR`, too."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in internal_ips]},
    }


def service_cidr(*cidrs: str, name: str = "kubernetes") -> Object:
    """The ranges that ClusterIPs are given from."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }


class Manifests:
    """A directory for `kpf run --manifests`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def write(self, name: str, *objects: Object) -> None:
        """Put these into one file, at once: a reader sees the old or the new one."""
        self.write_text(name, yaml.dump_all(objects, Dumper=yaml.CSafeDumper, sort_keys=False))

    def write_text(self, name: str, text: str) -> None:
        """The same with any text, such as a broken one."""
        temporary = self.directory / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        os.rename(temporary, self.directory / name)

    def remove(self, name: str) -> None:
        """Delete the file. Raises `FileNotFoundError`."""
        (self.directory / name).unlink()
