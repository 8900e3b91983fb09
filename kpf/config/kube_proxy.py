"""Configuration files of kube-proxy, `kubeproxy.config.k8s.io/v1alpha1`: what they mean to kpf.

Known are the fields that the type has or had, from Kubernetes 1.9 to 1.37. Rules:

- null, "", 0, false and an empty list say nothing: kubeadm writes every field that its version has. So does the value
  that kube-proxy takes by itself (`--write-config-to` writes those).
- What kpf has a use for becomes its own field, and is judged as that. Everything else of the type is `unused`, and
  not looked into.
- A field that the type lacks is a mistake if it says anything. kube-proxy goes on without it; but it may be
  `masqueradeAll`, misspelt. If it says nothing it is passed over: it comes with the next version of kubeadm.
- `bindAddress` 0.0.0.0 and :: stand for "none in particular", not for "listen everywhere" as in kpf's own files;
  the family of `bindAddress` is that of the default listen addresses.
- Addresses are read as kube-proxy reads them, with leading zeros; kpf's own files have them in their usual forms.
- `iptables.masqueradeAll` and `nftables.masqueradeAll` count both, whatever the mode is.
- `detectLocalMode: ClusterCIDR` without a `clusterCIDR` is kube-proxy's default, and therefore means kpf's.
- `mode: nftables` makes "primary" the default of `nodePortAddresses`, as in kube-proxy.
- `logging.verbosity` from 4 on is the level debug (so says klog's convention), everything below it info.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kpf.config.fields import shown
from kpf.model.names import IPAddress
from kpf.model.parsing import cidr_of, ip_of
from kpf.suggestions import did_you_mean

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"

FieldPath = tuple[str, ...]

_HEALTHZ_PORT, _METRICS_PORT = 10256, 10249
_DEBUG_VERBOSITY = 4

_USED = {
    "bindAddress",
    "clientConnection.kubeconfig",
    "clusterCIDR",
    "detectLocal.bridgeInterface",
    "detectLocal.interfaceNamePrefix",
    "detectLocalMode",
    "healthzBindAddress",
    "hostnameOverride",
    "iptables.masqueradeAll",
    "logging.format",
    "logging.verbosity",
    "metricsBindAddress",
    "nftables.masqueradeAll",
    "nodePortAddresses",
    "portRange",
}
# each with what kube-proxy takes by itself
_UNUSED: Mapping[str, Any] = {
    "bindAddressHardFail": False,
    "clientConnection.acceptContentTypes": "",
    "clientConnection.burst": 10,
    "clientConnection.contentType": "application/vnd.kubernetes.protobuf",
    "clientConnection.qps": 5,
    "configSyncPeriod": "15m",
    "conntrack.max": 0,
    "conntrack.maxPerCore": 32768,
    "conntrack.min": 131072,
    "conntrack.tcpBeLiberal": False,
    "conntrack.tcpCloseWaitTimeout": "1h",
    "conntrack.tcpEstablishedTimeout": "24h",
    "conntrack.udpStreamTimeout": 0,
    "conntrack.udpTimeout": 0,
    "enableProfiling": False,
    "featureGates": {},
    "iptables.localhostNodePorts": True,
    "iptables.masqueradeBit": 14,
    "iptables.minSyncPeriod": "1s",
    "iptables.snatNodeInternalIP": False,
    "iptables.syncPeriod": "30s",
    "ipvs.excludeCIDRs": [],
    "ipvs.minSyncPeriod": 0,
    "ipvs.scheduler": "",
    "ipvs.strictARP": False,
    "ipvs.syncPeriod": "30s",
    "ipvs.tcpFinTimeout": 0,
    "ipvs.tcpTimeout": 0,
    "ipvs.udpTimeout": 0,
    "logging.flushFrequency": "5s",
    "logging.options.json.infoBufferSize": 0,
    "logging.options.json.splitStream": False,
    "logging.options.text.infoBufferSize": 0,
    "logging.options.text.splitStream": False,
    "logging.vmodule": [],
    "mode": "userspace",
    "nftables.masqueradeBit": 14,
    "nftables.minSyncPeriod": "1s",
    "nftables.syncPeriod": "30s",
    "oomScoreAdj": -999,
    "resourceContainer": "/kube-proxy",
    "showHiddenMetricsForVersion": "",
    "udpIdleTimeout": "250ms",
    "windowsRunAsService": False,
    "winkernel.enableDSR": False,
    "winkernel.forwardHealthCheckVip": False,
    "winkernel.networkName": "",
    "winkernel.rootHnsEndpointName": "",
    "winkernel.sourceVip": "",
}
_PARTS = {name.rsplit(".", depth)[0] for name in (*_USED, *_UNUSED) for depth in range(1, name.count(".") + 1)}

_WITH_ADDRESSES = ("bindAddress", "clusterCIDR", "nodePortAddresses")
_UNIT_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_TERM = r"(\d+(?:\.\d*)?|\.\d+)(ns|[uµμ]s|ms|s|m|h)"
_DURATION = re.compile(rf"(?:{_TERM})+")  # Go's time.ParseDuration, without a sign


class Translation(NamedTuple):
    """What a file of kube-proxy says: fields in kpf's words, names that are `unused`, problems by name."""

    fields: dict[FieldPath, Any]
    unused: list[str]
    problems: list[tuple[str, str]]


def translate(document: Mapping[str, Any]) -> Translation:
    """The file without its apiVersion and kind. `fields` are not validated yet, `unused` is sorted."""
    used: dict[str, Any] = {}
    unused, problems = [], []
    for path, value in _leaves(document):
        # a dot within a name makes it none of the type's
        name = ".".join(path) if not any("." in part for part in path) else ""
        if name in _USED:
            if value:
                used[name] = value
        elif name in _UNUSED:
            if not _is_default(value, _UNUSED[name]):
                unused.append(name)
        elif not _is_empty(value):
            if name in _PARTS:
                wrong = f"must be a mapping, not {shown(value)}"
            else:
                wrong = f"is not a field of {KIND}{_meant(name)}"
            problems.append((".".join(path), wrong))
    for name, wrong in list(_problems(used)):
        problems.append((name, wrong))
        del used[name]
    return Translation(_own_fields(used, document.get("mode")), sorted(unused), problems)


def _meant(name: str) -> str:
    *_, last = name.rpartition(".")
    above = name.removesuffix(last)
    beside = {one.removeprefix(above).partition(".")[0] for one in (*_USED, *_UNUSED) if one.startswith(above)}
    return did_you_mean(last, sorted(beside))


def _leaves(part: Mapping[str, Any], above: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    for name, value in part.items():
        path = (*above, str(name))
        if isinstance(value, dict) and ".".join(path) in _PARTS:
            yield from _leaves(value, path)
        else:
            yield path, value


def _is_empty(value: Any) -> bool:
    return all(map(_is_empty, value.values())) if isinstance(value, dict) else not _plain(value)


def _is_default(value: Any, default: Any) -> bool:
    plain = _plain(value)
    # false is the one empty value that says something where the default is true
    return bool(plain == _plain(default)) or (not plain and not (plain is False and default is True))


def _plain(value: Any) -> Any:
    """A value that can be compared: "5s", "5000ms" and 5000000000 are one, "0" is 0."""
    if not isinstance(value, str):
        return value
    if _DURATION.fullmatch(value):
        return sum(float(number) * _UNIT_NS[unit] for number, unit in re.findall(_TERM, value))
    return 0 if value == "0" else value


def _problems(used: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the fields that kpf has under another name."""
    for name in ("iptables.masqueradeAll", "nftables.masqueradeAll"):
        if not isinstance(used.get(name, False), bool):
            yield name, f"must be true or false, not {shown(used[name])}"
    verbosity = used.get("logging.verbosity", 0)
    if not isinstance(verbosity, int) or isinstance(verbosity, bool) or verbosity < 0:
        yield "logging.verbosity", f"must be an integer from 0 on, not {shown(verbosity)}"


def _own_fields(used: dict[str, Any], mode: Any) -> dict[FieldPath, Any]:
    own = used | {name: _in_usual_form(used[name]) for name in _WITH_ADDRESSES if name in used}
    address = _address(own.get("bindAddress"))
    if address is not None and address.version == 6:
        own = {"healthzBindAddress": "::", "metricsBindAddress": "::1"} | own
    for name, port in (("healthzBindAddress", _HEALTHZ_PORT), ("metricsBindAddress", _METRICS_PORT)):
        alone = _address(own.get(name))
        if alone is not None:
            own[name] = f"[{alone}]:{port}" if alone.version == 6 else f"{alone}:{port}"
    if address is not None and address.is_unspecified:
        del own["bindAddress"]
    if own.get("detectLocalMode") == "ClusterCIDR" and "clusterCIDR" not in own:
        del own["detectLocalMode"]
    if own.get("portRange") == "0-0":
        del own["portRange"]
    if mode == "nftables":
        own.setdefault("nodePortAddresses", ["primary"])
    if own.pop("logging.verbosity", 0) >= _DEBUG_VERBOSITY:
        own["logging.level"] = "debug"
    masquerade = [own.pop(name, False) for name in ("iptables.masqueradeAll", "nftables.masqueradeAll")]
    if any(masquerade):
        own["masqueradeAll"] = True
    return {tuple(name.split(".")): value for name, value in own.items()}


def _in_usual_form(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_usual_form(one) for one in value]
    return ",".join(map(_usual_form, value.split(","))) if isinstance(value, str) else value


def _usual_form(text: str) -> str:
    """Of an address or a network; anything else as it is."""
    try:
        return str(cidr_of(text) if "/" in text else ip_of(text))
    except ValueError:
        return text


def _address(value: Any) -> IPAddress | None:
    """The IP address that the text is, None where it is anything else."""
    try:
        return ip_of(value) if isinstance(value, str) else None
    except ValueError:
        return None
