"""The configuration: defaults, what each field takes, every mistake at once, what a reload may change."""

import contextlib
import os
import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpf.config import FLAGS, Config, ConfigError, load, reload_needs_restart, warnings
from kpf.config.fields import PortRange
from kpf.model.names import SocketAddress

ROOT = Path(__file__).parent.parent
HEAD = {"apiVersion": "kpf.io/v1alpha1", "kind": "KpfConfiguration"}
SERVICE_CIDRS = (ip_network("10.96.0.0/12"), ip_network("10.112.0.0/12"))


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**fields: Any) -> dict[str, str]:
        return text(yaml.dump({**HEAD, **fields}))

    def text(content: str) -> dict[str, str]:
        path = tmp_path / "kpf.yaml"
        path.write_text(content, encoding="utf-8")
        return {"config": str(path)}

    write.text = text  # type: ignore[attr-defined]
    return write


def mistakes(overrides: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(overrides)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def test_defaults() -> None:
    config = load({})
    assert config == Config()
    assert config.workers == min(64, len(os.sched_getaffinity(0)))
    assert config.port_range == PortRange(20000, 29999)
    assert config.port_range.ports == range(20000, 30000)
    assert config.healthz_bind_address == SocketAddress(ip_address("0.0.0.0"), 10256)
    assert config.metrics_bind_address == SocketAddress(ip_address("127.0.0.1"), 10249)
    assert (config.control_socket, config.drain_timeout) == ("/run/kpf/control.sock", 30.0)
    assert (str(config.handover_path), config.handover_timeout, config.on_exit) == (
        "/run/kpf/handover.sock",
        3600.0,
        "drop",
    )
    assert (config.logging.level, config.logging.format) == ("info", "text")
    assert (config.forwarding, config.allow_external_ips, config.masquerade_all) == ("auto", True, False)
    assert config.service_cidrs == ()
    assert config.worker_user == 93040
    assert (config.manifests, config.bind_address, config.node_port_addresses, config.cluster_cidr) == ("", (), (), ())
    assert config.node_name == os.uname().nodename.lower()
    assert config.local_detection == "NodeCIDR"


def test_the_example_is_right() -> None:
    config = load({"config": str(ROOT / "examples" / "config.yaml")})
    assert config.node_port_addresses == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))
    assert config.local_detection == "ClusterCIDR"


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("bindAddress", "192.0.2.1, 2001:db8::1", "bind_address", (ip_address("192.0.2.1"), ip_address("2001:db8::1"))),
        ("bindAddress", ["::"], "bind_address", (ip_address("::"),)),
        ("nodePortAddresses", ["10.0.0.1/8"], "node_port_addresses", (ip_network("10.0.0.0/8"),)),
        ("proxyAddress", "169.254.9.9", "proxy_address", (ip_address("169.254.9.9"),)),
        ("proxyAddress", ["10.9.9.9", "fd00::9"], "proxy_address", (ip_address("10.9.9.9"), ip_address("fd00::9"))),
        ("nodePortAddresses", ["primary"], "node_port_addresses", "primary"),
        ("nodePortAddresses", [], "node_port_addresses", ()),
        ("clusterCIDR", "10.0.0.0/8,fd00::/56", "cluster_cidr", (ip_network("10.0.0.0/8"), ip_network("fd00::/56"))),
        ("portRange", "1024-65535", "port_range", PortRange(1024, 65535)),
        ("portRange", "30000-30000", "port_range", PortRange(30000, 30000)),
        ("healthzBindAddress", "[::1]:80", "healthz_bind_address", SocketAddress(ip_address("::1"), 80)),
        ("healthzBindAddress", "", "healthz_bind_address", None),
        ("metricsBindAddress", "", "metrics_bind_address", None),
        ("drainTimeout", 0, "drain_timeout", 0.0),
        ("drainTimeout", 1.5, "drain_timeout", 1.5),
        ("drainTimeout", "90", "drain_timeout", 90.0),
        ("drainTimeout", "1h2m3.5s", "drain_timeout", 3723.5),
        ("handoverTimeout", "168h", "handover_timeout", 604800.0),
        ("handoverSocket", "/run/other.sock", "handover_path", Path("/run/other.sock")),
        ("onExit", "leave", "on_exit", "leave"),
        ("hostnameOverride", " Node-1.Example ", "hostname_override", "node-1.example"),
        ("workers", 64, "workers", 64),
        ("forwarding", "direct", "forwarding", "direct"),
        ("allowExternalIPs", False, "allow_external_ips", False),
        ("masqueradeAll", True, "masquerade_all", True),
        ("workerUser", 1, "worker_user", 1),
        ("workerUser", (1 << 32) - 2, "worker_user", (1 << 32) - 2),
        ("serviceCIDRs", "10.96.0.0/12,10.112.0.0/12", "service_cidrs", SERVICE_CIDRS),
        ("serviceCIDRs", ["10.96.0.1/12", "10.112.0.0/12"], "service_cidrs", SERVICE_CIDRS),
        ("serviceCIDRs", ["fd00::/108"], "service_cidrs", (ip_network("fd00::/108"),)),
        ("serviceCIDRs", [], "service_cidrs", ()),
        ("manifests", None, "manifests", ""),
        ("manifests", "/etc/kpf/manifests", "manifests", "/etc/kpf/manifests"),
    ],
)  # fmt: skip
def test_what_a_field_takes(written: Any, field: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(load(written(**{field: value})), attribute) == expected


def test_nested_fields(written: Any) -> None:
    config = load(
        written(
            logging={"level": "WARNING", "format": None},
            detectLocalMode="BridgeInterface",
            detectLocal={"bridgeInterface": "cbr0"},
            clientConnection={"kubeconfig": "/etc/kubernetes/kubelet.conf"},
        )
    )
    assert (config.logging.level, config.logging.format) == ("warning", "text")
    assert (config.local_detection, config.detect_local.bridge_interface) == ("BridgeInterface", "cbr0")
    assert config.client_connection.kubeconfig == "/etc/kubernetes/kubelet.conf"


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("workers", 0, "1..64"),
        ("workers", 65, "65"),
        ("workers", "4", "'4'"),
        ("workers", True, "True"),
        ("bindAddress", "192.0.2.1,192.0.2.2", "one of each IP family"),
        ("bindAddress", "eth0", "'eth0'"),
        ("bindAddress", "224.0.0.1", "224.0.0.1"),
        ("bindAddress", "fe80::1%eth0", "zone"),
        ("bindAddress", 5, "must be text, not 5"),
        ("bindAddress", ["192.0.2.1", 5], "must be text, not 5"),
        ("proxyAddress", "169.254.77.1,169.254.77.2", "one of each IP family"),
        ("proxyAddress", "lo", "'lo'"),
        ("proxyAddress", "127.0.0.2", "127.0.0.2"),
        ("proxyAddress", "0.0.0.0", "0.0.0.0"),
        ("proxyAddress", "224.0.0.1", "224.0.0.1"),
        ("proxyAddress", "255.255.255.255", "255.255.255.255"),
        ("proxyAddress", "::1", "::1"),
        ("proxyAddress", "::", "::"),
        ("proxyAddress", "fe80::1", "fe80::1"),
        ("proxyAddress", ["ff02::1"], "ff02::1"),
        ("portRange", "20000", "'20000'"),
        ("portRange", "20001-20000", "A <= B"),
        ("portRange", "80-20000", "1024"),
        ("portRange", "20000-65536", "65535"),
        ("portRange", 20000, "must be text"),
        ("nodePortAddresses", ["10.0.0.1"], "not a CIDR"),
        ("nodePortAddresses", ["10.0.0.0/33"], "not a CIDR"),
        ("nodePortAddresses", ["10.0.0.0/255.0.0.0"], "not a CIDR"),
        ("nodePortAddresses", ["primary", "10.0.0.0/8"], "alone"),
        ("clusterCIDR", "10.0.0.0/8,10.1.0.0/16", "one of each"),
        ("detectLocalMode", "clusterCIDR", "must be one of 'ClusterCIDR', 'NodeCIDR'"),
        ("healthzBindAddress", "10256", "IP:PORT"),
        ("healthzBindAddress", "localhost:10256", "not an IP address"),
        ("healthzBindAddress", "::1:10256", "brackets"),
        ("healthzBindAddress", "[127.0.0.1]:10256", "brackets"),
        ("healthzBindAddress", "127.0.0.1:0", "1..65535"),
        ("metricsBindAddress", "127.0.0.1:65536", "1..65535"),
        ("controlSocket", "", "1..107 bytes"),
        ("controlSocket", "/" + "x" * 107, "1..107 bytes"),
        ("handoverSocket", "", "1..107 bytes"),
        ("handoverSocket", "/run/kpf/control.sock", "is the same as controlSocket"),
        ("handoverTimeout", 604801, "must be 0..604800 seconds"),
        ("onExit", "stay", "must be one of 'drop' or 'leave'"),
        ("drainTimeout", -1, "-1"),
        ("drainTimeout", 86401, "86401"),
        ("drainTimeout", "soon", "'soon'"),
        ("drainTimeout", "", "''"),
        ("drainTimeout", True, "True"),
        ("drainTimeout", float("nan"), "nan"),
        ("hostnameOverride", "node_1", "'node_1'"),
        ("forwarding", "maybe", "must be one of 'auto', 'proxied' or 'direct'"),
        ("allowExternalIPs", "yes please", "must be true or false"),
        ("masqueradeAll", "all", "must be true or false"),
        ("workerUser", 0, "must be a numeric id 1..4294967294"),
        ("workerUser", (1 << 32) - 1, "must be a numeric id 1..4294967294"),
        ("workerUser", True, "must be a numeric id 1..4294967294"),
        ("workerUser", "kpf", "must be a numeric id 1..4294967294"),
        ("serviceCIDRs", "10.96.0.0", "not a CIDR"),
        ("serviceCIDRs", ["10.96.0.0/12", "::/0"], "every address"),
        ("serviceCIDRs", 10, "must be text"),
        ("manifests", ["a"], "must be text"),
        ("logging", "debug", "must be a mapping"),
        ("logging.level", "loud", "must be one of 'debug', 'info'"),
        ("logging.colour", "red", "is not a field"),
        ("detectLocal.bridgeInterface", "a-name-that-is-too-long", "interface"),
        ("colour", "red", "is not a field"),
        ("drainTimout", 5, "is not a field of the configuration, did you mean drainTimeout?"),
        ("logging.levle", "info", "is not a field of the configuration, did you mean level?"),
        ("port_range", "20000-20001", "is not a field"),
        ("master", "https://10.0.0.1", "flag only"),
    ],
)
def test_what_a_field_refuses(written: Any, field: str, value: Any, shown: str) -> None:
    outer, _, inner = field.partition(".")
    overrides = written(**{outer: {inner: value} if inner else value})
    (found,) = mistakes(overrides)
    assert found.startswith(f"{overrides['config']}: {field}: ")
    assert shown in found


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"manifests": "a", "kubeconfig": "b"}, "manifests"),
        ({"manifests": "a", "master": "https://10.0.0.1:6443"}, "manifests"),
        ({"detect-local-mode": "ClusterCIDR"}, "clusterCIDR"),
        ({"detect-local-mode": "BridgeInterface"}, "detectLocal.bridgeInterface"),
        ({"detect-local-mode": "InterfaceNamePrefix"}, "detectLocal.interfaceNamePrefix"),
        ({"healthz-bind-address": "127.0.0.1:80", "metrics-bind-address": "127.0.0.1:80"}, "metricsBindAddress"),
        ({"control-socket": "/run/handover.sock"}, "handoverSocket"),
        # a byte shorter than handover.sock, and as long as may be
        ({"control-socket": "/" + "x/" * 47 + "control.sock"}, "handoverSocket"),
    ],
)
def test_contradictions(flags: dict[str, str], field: str) -> None:
    (found,) = mistakes(flags)
    assert found.startswith(f"{field}: ")


def test_an_address_to_listen_on_and_one_of_kpfs_own_are_not_given_for_one_family(written: Any) -> None:
    both = {"bindAddress": "192.0.2.1", "proxyAddress": "169.254.77.9"}
    (found,) = mistakes(written(**both))
    assert "proxyAddress: has no use" in found
    other = load(written(**both | {"proxyAddress": "fd77::9"}))
    assert (other.bind_address, other.proxy_address) == ((ip_address("192.0.2.1"),), (ip_address("fd77::9"),))


def test_every_mistake_of_file_and_flags_comes_at_once(written: Any) -> None:
    overrides = written(workers=0, colour="red", portRange="x", manifests="/etc/kpf")
    overrides |= {"workers": "many", "bind-address": "eth0", "log-level": "loud", "manifests": "here"}
    path = overrides["config"]
    found = mistakes(overrides)
    places = [line.removeprefix(f"{path}: ").split(": ")[0] for line in found]
    assert sorted(places) == ["--bind-address", "--log-level", "--workers", "colour", "portRange", "workers"]
    with pytest.raises(ConfigError) as caught:
        load(overrides)
    assert caught.value.manifests == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be one mapping"),
        ("- a", "must be one mapping"),
        ("a: 1\n---\nb: 2", "must be one mapping"),
        ("a: 1\na: 2", ":2: the key 'a' is given twice"),
        ("a:\n  [", ":3: is not YAML"),
        ("workers: 1", "it has apiVersion None, kind None"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KpfConfiguration",
            "must have apiVersion kpf.io/v1alpha1, kind KpfConfiguration (or kubeproxy.config.k8s.io/v1alpha1, "
            "KubeProxyConfiguration); it has apiVersion 'kubeproxy.config.k8s.io/v1alpha1', kind 'KpfConfiguration'",
        ),
        ("# " + "x" * (1 << 20), "is larger than"),
    ],
)
def test_files_that_are_no_configuration(written: Any, text: str, message: str) -> None:
    overrides = written.text(text)
    (found,) = mistakes(overrides)
    assert found.startswith(overrides["config"])
    assert message in found


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    assert mistakes({"config": str(tmp_path / "no")}) == [f"{tmp_path}/no: cannot be read: No such file or directory"]
    assert mistakes({"config": str(tmp_path)}) == [f"{tmp_path}: cannot be read: Is a directory"]
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe9")
    assert mistakes({"config": str(tmp_path / "latin")}) == [f"{tmp_path}/latin:2: is not UTF-8"]


def test_a_flag_wins_over_the_file(written: Any) -> None:
    overrides = written(workers=3, logging={"level": "debug", "format": "json"}, portRange="21000-21999")
    config = load(overrides | {"workers": "5", "log-level": "error", "healthz-bind-address": ""})
    assert (config.workers, config.port_range) == (5, PortRange(21000, 21999))
    assert (config.logging.level, config.logging.format) == ("error", "json")
    assert config.healthz_bind_address is None


def test_a_cluster_cidr_makes_its_mode_the_default() -> None:
    assert load({"cluster-cidr": "10.244.0.0/16"}).local_detection == "ClusterCIDR"
    assert load({"cluster-cidr": "10.244.0.0/16", "detect-local-mode": "NodeCIDR"}).local_detection == "NodeCIDR"


def test_what_a_reload_cannot_change() -> None:
    old = load({"manifests": "a", "workers": "2"})
    same = {"manifests": "a", "workers": "2"}
    assert reload_needs_restart(old, load(same)) == []
    assert reload_needs_restart(old, load(same | {"drain-timeout": "5", "log-level": "debug"})) == []
    assert reload_needs_restart(old, load(same | {"workers": "3", "bind-address": "127.0.0.1", "manifests": "b"})) == []
    changes = {"control-socket": "/tmp/kpf.sock"}
    for flag, value in changes.items():
        (name,) = reload_needs_restart(old, load(same | {flag: value}))
        assert getattr(old, name) != getattr(load(same | {flag: value}), name)
    assert len(reload_needs_restart(old, load(changes))) == len(changes)


def test_a_reload_cannot_change_kpfs_own_address(written: Any) -> None:
    old = load(written(proxyAddress="169.254.77.9"))
    assert reload_needs_restart(old, load(written(proxyAddress="169.254.77.8"))) == ["proxy_address"]


@pytest.mark.parametrize(
    ("kernel", "said"),
    [("32768\t60999\n", False), ("28000\t60999\n", True), ("1024\t20000\n", True), ("nonsense", False)],
)
def test_a_port_range_that_overlaps_the_ephemeral_one_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, said: bool
) -> None:
    (tmp_path / "range").write_text(kernel, encoding="ascii")
    monkeypatch.setattr("kpf.config.reader.EPHEMERAL_RANGE", tmp_path / "range")
    assert bool(warnings(load({}))) is said


def test_less_time_at_a_restart_than_at_a_stop_is_warned_of(written: Any) -> None:
    (said,) = warnings(load(written(portRange="1024-1024", handoverTimeout=29.5)))
    assert said.startswith("handoverTimeout 29.5 s is less than drainTimeout 30 s: ")
    assert warnings(load(written(portRange="1024-1024", handoverTimeout=30))) == []


NO_FLAG = {
    "handoverSocket",
    "handoverTimeout",
    "proxyAddress",
    "forwarding",
    "allowExternalIPs",
    "detectLocal",
    "masqueradeAll",
    "serviceCIDRs",
    "workerUser",
}
FIELDS = sorted({".".join(path) for path in FLAGS.values() if path} | NO_FLAG)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)


@given(st.sampled_from(sorted(FLAGS.keys() - {"config"})), st.text(max_size=30))
def test_no_flag_makes_it_raise_anything_else(flag: str, value: str) -> None:
    with contextlib.suppress(ConfigError):
        load({flag: value})


@given(st.sampled_from(FIELDS), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_no_value_in_the_file_makes_it_raise_anything_else(field: str, value: Any) -> None:
    outer, _, inner = field.partition(".")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.dump({**HEAD, outer: {inner: value} if inner else value}, file, Dumper=yaml.CSafeDumper)
        file.flush()
        with contextlib.suppress(ConfigError):
            load({"config": file.name})
