"""Configuration files of kube-proxy: what kpf makes of each field, and what it says of those that it has no use for."""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpf import cli
from kpf.config import Config, ConfigError, load
from kpf.config.fields import PortRange
from kpf.model.names import SocketAddress

SAMPLES = Path(__file__).parent / "kube_proxy"
HEAD = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = name.split(".")
        inner = whole
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return whole


def leaves(part: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted names of the fields. `featureGates` is one field, a map."""
    for name, value in part.items():
        if isinstance(value, dict) and name != "featureGates":
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name


UNUSED = sorted({*leaves(yaml.safe_load((SAMPLES / "unused.yaml").read_text()))} - HEAD.keys())


class File:
    def __init__(self, path: Path) -> None:
        self.path = path

    def holds(self, fields: dict[str, Any]) -> dict[str, str]:
        """The flags that name it. `fields`: by dotted name."""
        return self.reads(yaml.dump({**HEAD, **nested(fields)}))

    def reads(self, text: str) -> dict[str, str]:
        self.path.write_text(text, encoding="utf-8")
        return {"config": str(self.path)}


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "config.conf")


def mistakes(flags: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["kubeadm.yaml", "kubeadm-1.13.yaml"])
def test_what_kubeadm_writes_needs_no_word(name: str) -> None:
    config = load({"config": str(SAMPLES / name)})
    assert config == load({"kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "cluster-cidr": "10.244.0.0/16"})
    assert config.file_warnings == ()


def test_what_kube_proxy_writes_of_its_defaults_needs_no_word() -> None:
    config = load({"config": str(SAMPLES / "written.yaml")})
    assert config == Config()
    assert config.local_detection == "NodeCIDR"


def test_an_empty_file_says_nothing(file: File) -> None:
    assert load(file.holds({})) == Config()


def test_what_kpf_has_no_use_for_is_named_in_one_warning() -> None:
    path = SAMPLES / "unused.yaml"
    config = load({"config": str(path)})
    assert config.file_warnings == (f"{path}: kpf has no use for these settings of kube-proxy: {', '.join(UNUSED)}",)
    assert config.with_file_warnings(()) == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conntrack.tcpEstablishedTimeout", "86400s"),
        ("conntrack.maxPerCore", 0),
        ("iptables.localhostNodePorts", True),
        ("iptables.syncPeriod", "0.5m"),
        ("iptables.syncPeriod", 0),
        ("udpIdleTimeout", "0"),
        ("logging.flushFrequency", 5000000000),
        ("logging.flushFrequency", "5000ms"),
        ("logging.vmodule", []),
        ("mode", "userspace"),
        ("featureGates", ""),
        ("clientConnection.qps", 5.0),
        ("winkernel", None),
        ("conntrack", {}),
    ],
)
def test_a_default_in_any_writing_needs_no_word(file: File, name: str, value: Any) -> None:
    assert load(file.holds({name: value})).file_warnings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("iptables.syncPeriod", "-30s"), ("iptables.syncPeriod", "soon"), ("mode", ["ipvs"]), ("oomScoreAdj", "high")],
)
def test_what_an_unused_field_says_is_not_judged(file: File, name: str, value: Any) -> None:
    (remark,) = load(file.holds({name: value})).file_warnings
    assert remark.endswith(f": {name}")


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("bindAddress", "192.0.2.1", "bind_address", (ip_address("192.0.2.1"),)),
        ("bindAddress", "::", "bind_address", ()),
        ("bindAddress", "0.0.0.0", "bind_address", ()),
        ("bindAddress", "::", "healthz_bind_address", SocketAddress(ip_address("::"), 10256)),
        ("bindAddress", "2001:db8::1", "metrics_bind_address", SocketAddress(ip_address("::1"), 10249)),
        ("bindAddress", "192.0.2.1", "metrics_bind_address", SocketAddress(ip_address("127.0.0.1"), 10249)),
        ("healthzBindAddress", "127.0.0.1", "healthz_bind_address", SocketAddress(ip_address("127.0.0.1"), 10256)),
        ("healthzBindAddress", "[::1]:80", "healthz_bind_address", SocketAddress(ip_address("::1"), 80)),
        ("healthzBindAddress", None, "healthz_bind_address", SocketAddress(ip_address("0.0.0.0"), 10256)),
        ("metricsBindAddress", "::", "metrics_bind_address", SocketAddress(ip_address("::"), 10249)),
        ("metricsBindAddress", "0.0.0.0:9", "metrics_bind_address", SocketAddress(ip_address("0.0.0.0"), 9)),
        ("metricsBindAddress", "", "metrics_bind_address", SocketAddress(ip_address("127.0.0.1"), 10249)),
        ("clusterCIDR", "10.0.0.0/8,fd00::/56", "cluster_cidr", (ip_network("10.0.0.0/8"), ip_network("fd00::/56"))),
        ("clusterCIDR", "10.0.0.0/8", "local_detection", "ClusterCIDR"),
        ("bindAddress", "192.000.002.001", "bind_address", (ip_address("192.0.2.1"),)),
        ("bindAddress", "::ffff:0.0.0.0", "bind_address", ()),
        (
            "healthzBindAddress",
            "192.000.002.001",
            "healthz_bind_address",
            SocketAddress(ip_address("192.0.2.1"), 10256),
        ),
        ("clusterCIDR", "010.244.000.007/16", "cluster_cidr", (ip_network("10.244.0.0/16"),)),
        ("nodePortAddresses", ["192.168.050.0/24"], "node_port_addresses", (ip_network("192.168.50.0/24"),)),
        ("detectLocalMode", "NodeCIDR", "local_detection", "NodeCIDR"),
        ("nodePortAddresses", ["primary"], "node_port_addresses", "primary"),
        ("nodePortAddresses", ["10.0.0.0/8"], "node_port_addresses", (ip_network("10.0.0.0/8"),)),
        ("nodePortAddresses", [], "node_port_addresses", ()),
        ("mode", "nftables", "node_port_addresses", "primary"),
        ("mode", "iptables", "node_port_addresses", ()),
        ("portRange", "30000-30100", "port_range", PortRange(30000, 30100)),
        ("portRange", "0-0", "port_range", PortRange(20000, 29999)),
        ("hostnameOverride", "Node-1", "node_name", "node-1"),
        ("iptables.masqueradeAll", True, "masquerade_all", True),
        ("nftables.masqueradeAll", True, "masquerade_all", True),
        ("nftables.masqueradeAll", None, "masquerade_all", False),
    ],
)
def test_what_a_field_becomes(file: File, name: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(load(file.holds({name: value})), attribute) == expected


def test_what_nested_fields_become(file: File) -> None:
    bridge = load(file.holds({"detectLocalMode": "BridgeInterface", "detectLocal.bridgeInterface": "cbr0"}))
    assert (bridge.local_detection, bridge.detect_local.bridge_interface) == ("BridgeInterface", "cbr0")
    prefix = load(file.holds({"detectLocalMode": "InterfaceNamePrefix", "detectLocal.interfaceNamePrefix": "veth"}))
    assert (prefix.local_detection, prefix.detect_local.interface_name_prefix) == ("InterfaceNamePrefix", "veth")
    assert load(file.holds({"clientConnection.kubeconfig": "/k"})).client_connection.kubeconfig == "/k"
    assert load(file.holds({"logging.format": "json"})).logging.format == "json"
    assert load(file.holds({"mode": "nftables", "nodePortAddresses": ["::/0"]})).node_port_addresses == (
        ip_network("::/0"),
    )


@pytest.mark.parametrize(("verbosity", "level"), [(None, "info"), (0, "info"), (3, "info"), (4, "debug"), (9, "debug")])
def test_the_verbosity_of_debugging_is_4(file: File, verbosity: int | None, level: str) -> None:
    assert load(file.holds({"logging.verbosity": verbosity})).logging.level == level


def test_a_flag_wins_over_the_file(file: File) -> None:
    flags = file.holds({"hostnameOverride": "a", "logging.verbosity": 9, "bindAddress": "::"})
    config = load(flags | {"hostname-override": "b", "log-level": "error", "healthz-bind-address": ""})
    assert (config.node_name, config.logging.level, config.healthz_bind_address) == ("b", "error", None)


REFUSED = [
    ("bindAddress", "eth0", "'eth0' is not an IP address"),
    ("healthzBindAddress", ":10256", "IP:PORT"),
    ("metricsBindAddress", "localhost:10249", "not an IP address"),
    ("clusterCIDR", "10.0.0.0", "not a CIDR"),
    ("nodePortAddresses", ["all"], "not a CIDR"),
    ("detectLocalMode", "LocalModeNodeCIDR", "must be one of 'ClusterCIDR', 'NodeCIDR'"),
    ("detectLocal.bridgeInterface", "a-name-that-is-too-long", "interface"),
    ("portRange", "80-90", "1024"),
    ("hostnameOverride", "node_1", "'node_1'"),
    ("clientConnection.kubeconfig", 5, "must be text, not 5"),
    ("logging.format", "xml", "must be one of 'text' or 'json'"),
    ("logging.verbosity", "9", "must be an integer from 0 on, not '9'"),
    ("logging.verbosity", -1, "from 0 on"),
    ("iptables.masqueradeAll", "yes", "must be true or false, not 'yes'"),
    ("nftables.masqueradeAll", 1, "must be true or false, not 1"),
    ("iptables", "all", "must be a mapping, not 'all'"),
    ("logging.options", True, "must be a mapping, not True"),
    ("iptables.masqueradAll", True, "is not a field of KubeProxyConfiguration, did you mean masqueradeAll?"),
    ("clusterCdir", "10.0.0.0/8", "is not a field of KubeProxyConfiguration, did you mean clusterCIDR?"),
    ("ipvs.masqueradeAll", True, "is not a field of KubeProxyConfiguration"),
    ("logging.level", "debug", "is not a field of KubeProxyConfiguration"),
    ("workers", 4, "is not a field of KubeProxyConfiguration"),
    ("colours", {"red": {"dark": 1}}, "is not a field of KubeProxyConfiguration"),
]


@pytest.mark.parametrize(("name", "value", "shown"), REFUSED)
def test_what_a_field_refuses(file: File, name: str, value: Any, shown: str) -> None:
    (found,) = mistakes(file.holds({name: value}))
    assert found.startswith(f"{file.path}: {name}: ")
    assert shown in found


def test_a_name_with_a_dot_is_no_path(file: File) -> None:
    (found,) = mistakes(file.reads(yaml.dump({**HEAD, "iptables.masqueradeAll": True})))
    assert found == f"{file.path}: iptables.masqueradeAll: is not a field of KubeProxyConfiguration"


@pytest.mark.parametrize("value", [None, "", 0, "0", "0s", False, [], {}, {"a": None, "b": {"c": "0s"}}])
def test_an_unknown_field_that_says_nothing_is_passed_over(file: File, value: Any) -> None:
    assert load(file.holds({"brandNew": value, "iptables.brandNew": value})) == Config()


def test_every_mistake_comes_at_once(file: File) -> None:
    fields = {"bindAddress": "eth0", "logging.verbosity": -1, "colour": "red", "iptables.masqueradeAll": 5}
    places = [line.removeprefix(f"{file.path}: ").split(": ")[0] for line in mistakes(file.holds(fields))]
    assert sorted(places) == sorted(fields)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@given(st.sampled_from(sorted({*UNUSED, *(name for name, *_ in REFUSED)})), VALUES)
def test_no_value_makes_it_raise_anything_else(name: str, value: Any) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as made:
        yaml.dump({**HEAD, **nested({name: value})}, made, Dumper=yaml.CSafeDumper)
        made.flush()
        with contextlib.suppress(ConfigError):
            load({"config": made.name})


@pytest.fixture
def reload(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collects the function that reads the configuration anew, from a master that ends at once."""
    logger = logging.getLogger("kpf")
    before = logger.handlers[:], logger.propagate, logger.level
    functions: list[Any] = []
    master = ModuleType("kpf.master.master")
    master.main = lambda _config, reload: functions.append(reload)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kpf.master.master", master)
    yield functions
    logger.handlers[:], logger.propagate, logger.level = before


def test_a_warning_is_said_at_the_start_and_after_a_change(
    file: File, reload: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> list[str]:
        return [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines() if "no use for" in line]

    file.holds({"mode": "ipvs"})
    cli.main(["run", "--manifests", str(tmp_path), "--config", str(file.path)])
    assert said() == ["mode"]
    (anew,) = reload
    anew()
    assert said() == []
    file.holds({"mode": "ipvs", "ipvs.scheduler": "lc"})
    anew()
    assert said() == ["ipvs.scheduler, mode"]
    file.holds({})
    anew()
    file.holds({"mode": "ipvs"})
    anew()
    assert said() == ["mode"]
