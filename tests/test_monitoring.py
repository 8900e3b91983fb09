"""examples/monitoring, and the metrics themselves, against Prometheus's own tool where it is installed."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpf.observe.exposition import exposition
from kpf.observe.families import Kind
from tests.metrics_world import busy_node, busy_service, families

MONITORING = Path(__file__).parent.parent / "examples" / "monitoring"
RULES = MONITORING / "rules.yml"
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]

_NODE = 'instance="node-1",job="kpf"'
_SERVICE = f'{_NODE},namespace="shop",service="web",port="http"'
_BUILD = f"kpf_build_info{{{_NODE}}}"
_WORKER = f'{_NODE},worker="0"'
# what has an alert fire: series, and their values once a minute for an hour
FIRES: Mapping[str, Mapping[str, str]] = {
    "KpfDown": {f"up{{{_NODE}}}": "0x60"},
    "KpfNotSynced": {
        _BUILD: "1x60",
        f'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{{_NODE},ip_family="IPv4"}}': "1000x60",
        f'kubeproxy_sync_proxy_rules_last_timestamp_seconds{{{_NODE},ip_family="IPv4"}}': "900x60",
    },
    "KpfWatchSilent": {f'kpf_watch_age_seconds{{{_NODE},resource="services"}}': "0+60x60"},
    "KpfWorkerRestarts": {f"kpf_worker_restarts_total{{{_WORKER}}}": "0+1x60"},
    "KpfWorkerStuck": {f"kpf_worker_heartbeat_age_seconds{{{_WORKER}}}": "0+60x60"},
    "KpfWorkerPaused": {f"kpf_worker_paused{{{_WORKER}}}": "1x60"},
    "KpfListenOverflows": {f"kpf_listen_overflows_total{{{_WORKER}}}": "0+1x60"},
    # it is tried now and then, and may look healthy for that moment
    "KpfEndpointShutOut": {f'kpf_endpoint_shut_out{{{_SERVICE},endpoint="10.0.0.1:80"}}': "1 1 _ 1 1 _ 1 1 _ 1x60"},
    "KpfConnectionsFail": {
        f'kpf_connections_failed_total{{{_SERVICE},reason="refused"}}': "0+1x60",
        f'kpf_connections_failed_total{{{_SERVICE},reason="timeout"}}': "0+1x60",
        f"kpf_connections_total{{{_SERVICE}}}": "0+150x60",
    },
    "KpfDialsSlow": {
        f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="0.256"}}': "0+95x60",
        f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="1.024"}}': "0+95x60",
        f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="4.096"}}': "0+100x60",
        f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="+Inf"}}': "0+100x60",
    },
    "KpfAffinityFull": {f"kpf_affinity_evictions_total{{{_NODE}}}": "0+1x60"},
    "KpfReloadFailed": {f"kpf_config_last_reload_successful{{{_NODE}}}": "0x60"},
    "KpfProblems": {f'kpf_problems{{{_NODE},kind="Service"}}': "1x60"},
    "KpfDrainsForLong": {f"kpf_draining{{{_NODE}}}": "1x60"},
    "KpfSeriesLeftOut": {f"kpf_metrics_series_left_out{{{_NODE}}}": "1x60"},
}
# of a node where nothing is wrong
QUIET: Mapping[str, str] = {
    f"up{{{_NODE}}}": "1x60",
    _BUILD: "1x60",
    f'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{{{_NODE},ip_family="IPv4"}}': "1000x60",
    f'kubeproxy_sync_proxy_rules_last_timestamp_seconds{{{_NODE},ip_family="IPv4"}}': "1001x60",
    f'kpf_watch_age_seconds{{{_NODE},resource="services"}}': "1 31 61x60",
    f"kpf_worker_restarts_total{{{_WORKER}}}": "0x20 2x40",
    f"kpf_worker_heartbeat_age_seconds{{{_WORKER}}}": "0.4x60",
    f"kpf_worker_paused{{{_WORKER}}}": "0 1 0 1 0x57",
    f"kpf_listen_overflows_total{{{_WORKER}}}": "7x60",
    f'kpf_endpoint_shut_out{{{_SERVICE},endpoint="10.0.0.1:80"}}': "_ 1 1 _x58",
    f'kpf_connections_failed_total{{{_SERVICE},reason="refused"}}': "0+1x60",
    f"kpf_connections_total{{{_SERVICE}}}": "0+150x60",
    f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="0.256"}}': "0+999x60",
    f'kpf_dial_duration_seconds_bucket{{{_SERVICE},le="+Inf"}}': "0+1000x60",
    f"kpf_affinity_evictions_total{{{_NODE}}}": "3x60",
    f"kpf_config_last_reload_successful{{{_NODE}}}": "0 0 1x58",
    f'kpf_problems{{{_NODE},kind="Service"}}': "1x10 0x50",
    f"kpf_draining{{{_NODE}}}": "0x60",
    f"kpf_metrics_series_left_out{{{_NODE}}}": "0x60",
}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def scenario(name: str, series: Mapping[str, str], expected: int) -> dict[str, Any]:
    """`expected`: how many alerts fire by the end of the hour."""
    firing = f'count(ALERTS{{alertstate="firing",alertname=~"{name}"}})'
    samples = [{"labels": "{}", "value": expected}] if expected else []
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "59m", "exp_samples": samples}],
    }


def test_each_alert_fires_and_none_where_nothing_is_wrong(promtool: str, tmp_path: Path) -> None:
    assert sorted(FIRES) == sorted(ALERTS)
    scenarios = [scenario(name, series, 1) for name, series in FIRES.items()]
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [*scenarios, scenario(".*", QUIET, 0)]}
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_what_prometheus_takes(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_metrics_are_what_prometheus_takes(promtool: str) -> None:
    text = b"".join(exposition(families(busy_node(), [busy_service()]), is_open_metrics=False))
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    # of kube-proxy's, whose name it has to be
    assert done.stderr.decode().splitlines() == [
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total non-counter metrics should not have "_total" suffix'
    ]


def names() -> Iterator[str]:
    """Of all series there can be, as queries have them."""
    suffixes = {Kind.COUNTER: ["_total"], Kind.GAUGE: [""], Kind.HISTOGRAM: ["_bucket", "_count", "_sum"]}
    for family in families(busy_node(), [busy_service()]):
        yield from (family.name + suffix for suffix in suffixes[family.kind])


def test_the_rules_ask_for_what_there_is() -> None:
    asked = set(re.findall(r"\b(?:kpf|kubeproxy)_\w+", RULES.read_text()))
    assert asked - {"kpf_metrics_series_left_out"} <= set(names())
    assert asked <= {one.partition("{")[0] for series in FIRES.values() for one in series}


def test_the_pod_monitor_finds_the_pods_of_the_daemon_set() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    examples = MONITORING.parent / "kubernetes"
    daemon_set = next(
        one for one in yaml.safe_load_all((examples / "daemonset.yaml").read_text()) if one["kind"] == "DaemonSet"
    )
    pod = daemon_set["spec"]["template"]
    assert monitor["metadata"]["namespace"] == daemon_set["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    rewritten = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"][:2]
    ports = [one["replacement"].rpartition(":")[2] for one in rewritten]
    configuration = yaml.safe_load((examples / "configmap.yaml").read_text())["data"]["kpf.yaml"]
    assert ports == [yaml.safe_load(configuration)["metricsBindAddress"].rpartition(":")[2]] * 2


def test_all_metrics_are_described() -> None:
    text = (MONITORING.parent.parent / "docs" / "metrics.md").read_text()
    families_named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names() if not name.startswith("process_")}
    described = set(re.findall(r"`((?:kpf|kubeproxy)_\w+)`", text))
    assert {
        *families_named,
        "kpf_metrics_series",
        "kpf_metrics_series_limit",
        "kpf_metrics_series_left_out",
    } == described
