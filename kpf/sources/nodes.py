"""Nodes and ServiceCIDRs: their values."""

from kpf.model.names import ObjectName
from kpf.model.snapshot import Node, ServiceCIDR
from kpf.sources import wire
from kpf.sources.fields import cidr_at, cidrs_at, ip_at
from kpf.sources.parts import FieldError

TAINT_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"


def node(raw: wire.Node, name: ObjectName, _origin: str) -> tuple[Node, list[FieldError]]:
    """The Node, and what is wrong with it: an address, or a range, that cannot be read is left out.

    Only its InternalIPs count; `podCIDR` only where there are no `podCIDRs`.
    """
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    field_errors: list[FieldError] = []
    addresses = [
        ip_at(("status", "addresses", index, "address"), one.get("address") or "", field_errors)
        for index, one in enumerate(status.get("addresses") or ())
        if one.get("type") == "InternalIP"
    ]
    pod_cidrs = cidrs_at(("spec", "podCIDRs"), spec.get("podCIDRs") or (), field_errors)
    if not spec.get("podCIDRs") and (text := spec.get("podCIDR")):
        only = cidr_at(("spec", "podCIDR"), text, field_errors)
        pod_cidrs = (only,) if only is not None else ()
    return Node(
        name=name.name,
        labels={key: value or "" for key, value in (metadata.get("labels") or {}).items()},
        internal_ips=tuple(one for one in addresses if one is not None),
        pod_cidrs=pod_cidrs,
        being_deleted=bool(metadata.get("deletionTimestamp"))
        or any(taint["key"] == TAINT_TO_BE_DELETED for taint in spec.get("taints") or ()),
    ), field_errors


def service_cidr(raw: wire.ServiceCIDR, name: ObjectName, _origin: str) -> tuple[ServiceCIDR, list[FieldError]]:
    """The ServiceCIDR, and what is wrong with it: a range that cannot be read is left out."""
    field_errors: list[FieldError] = []
    cidrs = cidrs_at(("spec", "cidrs"), (raw.get("spec") or {}).get("cidrs") or (), field_errors)
    return ServiceCIDR(name.name, cidrs), field_errors
