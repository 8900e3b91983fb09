"""A real Prometheus scrapes `/metrics`, and has an answer to every query of the dashboard and of the alerts."""

import asyncio
import json
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpf.observe.families import Distribution, Family
from kpf.observe.http import Servers, ServerSockets
from kpf.observe.metrics_server import Scrapes, metrics_handler
from kpf.observe.node_metrics import SYNC_BOUNDS_S
from tests.metrics_world import busy_node, endpoint, families, frontend, member, of_service
from tests.test_monitoring import MONITORING, RULES

KPF, PROMETHEUS = 10249, 19090
SCRAPED_S = 60
# what Grafana puts in; to Prometheus a range must be some scrapes
_VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$namespace": ".*", "$service": ".*"}


def queries() -> Iterator[str]:
    """Of all panels, as Grafana asks."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            query: str = target["expr"]
            for name, value in _VARIABLES.items():
                query = query.replace(name, value)
            yield query


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "$" not in "".join(queries())


class Busy:
    """More of everything at each scrape."""

    def __init__(self) -> None:
        self.scrapes, self._took = 0, Distribution(SYNC_BOUNDS_S)

    async def families(self) -> Iterable[Family]:
        self.scrapes += 1
        now = self.scrapes
        counts = {"total": 10, "bytes_in": 5, "bytes_out": 6, "retries": 1, "affinity_hits": 2, "refused": 1}
        web = of_service(
            "web",
            frontend(active=1, **{name: now * by for name, by in {**counts, "dials": 9, "lasted": 8}.items()}),
            endpoints=(endpoint(1, member(now, 1)), endpoint(2, member(now, 0, now, ejected=True))),
            has_affinity=True,
        )
        node = busy_node()
        self._took.add(0.003)
        sync = replace(node.sync, full_took=self._took, partial_took=Distribution(SYNC_BOUNDS_S))
        worker = node.workers[0]._replace(cpu_s=now * 0.5, restarts=now, overflows=now, pauses=now)
        return families(replace(node, workers=(worker,), sync=sync), [web])


@contextmanager
def prometheus(directory: Path) -> Iterator[None]:
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "kpf", "static_configs": [{"targets": [f"127.0.0.1:{KPF}"]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    command = [
        program,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{PROMETHEUS}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)


def asked(query: str) -> list[Any]:
    """What it answers, but for values that are no number."""
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=10.0) as answer:
        result: list[Any] = json.load(answer)["data"]["result"]
    return [one for one in result if one["value"][1] != "NaN"]


@pytest.mark.soak
def test_every_query_has_an_answer(tmp_path: Path) -> None:
    async def play() -> None:
        busy, servers = Busy(), Servers(ServerSockets())
        assert await servers.serve_tcp("127.0.0.1", KPF, metrics_handler(Scrapes(busy.families))) == ""
        with prometheus(tmp_path):
            while busy.scrapes < SCRAPED_S:
                await asyncio.sleep(0.1)
            unanswered = [query for query in queries() if not await asyncio.to_thread(asked, query)]
            up = await asyncio.to_thread(asked, f"min_over_time(up[{SCRAPED_S - 10}s])")
            dropped = await asyncio.to_thread(asked, "scrape_samples_scraped - scrape_samples_post_metric_relabeling")
        await servers.close()
        assert unanswered == []
        assert [one["value"][1] for one in up] == ["1"]
        assert [one["value"][1] for one in dropped] == ["0"]

    asyncio.run(play())
