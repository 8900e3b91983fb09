"""`kpf status` for people: what fits, what `grep` finds, what is coloured, and what is watched."""

import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpf.commands import amounts, status
from kpf.commands.status_text import Options, Sample, lines, watched
from kpf.commands.tables import Column, Paper, cut, fitting, paper_of

NOW = "2026-11-29T20:15:00Z"
COLUMNS_80 = Paper(80)


def endpoint(address: str, **fields: object) -> dict[str, Any]:
    return {
        "address": address,
        "state": "healthy",
        "node": "node-a",
        "pod": "shop/web-5d9c7b5d4f-x2x7k",
        "connectionsActive": 3,
        "connectionsTotal": 17,
        "dialFailures": 0,
        "dialFailuresByReason": {},
        "since": None,
        "reason": None,
        "nextTry": None,
        **fields,
    }


def service(name: str, *endpoints: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "namespace": "shop",
        "name": name,
        "port": "http",
        "protocol": "TCP",
        "forwarding": "proxied",
        "directFromElsewhere": False,
        "limited": False,
        "portals": ["10.96.0.10:80", "[fd00:96::10]:80"],
        "nodePort": 30080,
        "proxyPorts": [{"family": "IPv4", "port": 24394}, {"family": "IPv6", "port": 24395}],
        "affinityTimeoutSeconds": 10800,
        "connectionsActive": 3,
        "connectionsTotal": 17,
        "bytesIn": 1200,
        "bytesOut": 3_400_000,
        "dialRetries": 1,
        "connectionsFailed": {},
        "endpoints": list(endpoints),
        **fields,
    }


FAILING = endpoint(
    "10.244.2.7:8080",
    state="failing",
    reason="refused",
    since="2026-11-29T20:14:58Z",
    nextTry="2026-11-29T20:15:02Z",
    dialFailures=4,
)
WEB = service("web", endpoint("10.244.1.5:8080"), FAILING)
DNS = service(
    "dns",
    endpoint("10.244.1.9:53", state="unknown", connectionsActive=None, connectionsTotal=None, dialFailures=None),
    protocol="UDP",
    forwarding="direct",
    port="",
    proxyPorts=[],
    affinityTimeoutSeconds=None,
    **dict.fromkeys(("connectionsActive", "connectionsTotal", "bytesIn", "bytesOut", "dialRetries")),
    connectionsFailed=None,
)
EMPTY = service("a-service-whose-name-is-as-long-as-any-may-be-that-somebody-gives-it")
PROBLEM = {"origin": "web.yaml", "object": "Service shop/web", "field": "spec.type", "message": "is wrong"}


def state(*services: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "node": "node-a",
        "uptimeSeconds": 3725.4,
        "generation": 7,
        "synced": True,
        "draining": False,
        "proxyAddresses": ["169.254.77.1"],
        "troubles": [],
        "workerUser": 93040,
        "problems": [],
        "workers": [
            {"slot": 0, "pid": 7, "state": "ready", "connectionsActive": 3, "connectionsTotal": 17, "restarts": 0}
        ],
        "services": list(services),
        **fields,
    }


ALL = state(DNS, WEB, EMPTY)


def text(told: Mapping[str, Any] = ALL, paper: Paper = COLUMNS_80, **options: bool) -> list[str]:
    return list(lines(told, paper, Options(**options), NOW))


def rows(found: list[str], title: str) -> list[str]:
    """The rows of the table whose second column is called so."""
    (start,) = [index for index, line in enumerate(found) if line.split()[1:2] == [title]]
    return found[start + 1 : [*found, ""].index("", start)]


def test_a_terminal_of_80_columns_is_wide_enough_and_what_is_left_out_is_said() -> None:
    found = text(state(*ALL["services"], problems=[{**PROBLEM, "since": NOW, "lastStays": True}], workerUser=None))
    assert max(map(len, found)) <= 80
    assert " ".join(map(str.strip, found[found.index("", -4) + 1 :])) == (
        "More with -o wide, or on a wider terminal: "
        "proxy ports, affinity, bytes in, out, retries, node, pod, since, next try"
    )
    # names are cut
    assert any("…" in line for line in found)


def test_where_there_is_room_all_columns_are_shown() -> None:
    found = text(paper=Paper(400))
    assert found[-1].startswith("shop/a-service")
    assert "PROXY PORTS" in "".join(found)


def test_a_pipe_gets_whole_lines() -> None:
    found = text(paper=Paper())
    assert EMPTY["name"] in "\n".join(found)
    assert "…" not in "".join(found)
    assert "\033" not in "".join(found)
    assert "PROXY PORTS" not in "".join(found)
    assert found == [line.rstrip() for line in found]


def test_wide_has_it_all_whatever_the_terminal() -> None:
    found = text(is_wide=True)
    (web,) = [line for line in rows(found, "PORTALS") if line.startswith("shop/web:http ")]
    for part in (
        "24394, 24395",
        "ClientIP 3 h",
        "1.2 kB",
        "3.4 MB",
        "10.96.0.10:80, [fd00:96::10]:80, node port 30080",
    ):
        assert part in web
    (failing,) = [line for line in rows(found, "ENDPOINT") if "failing" in line]
    assert failing.split("  ")[0] == "shop/web:http"
    for part in ("node-a", "shop/web-5d9c7b5d4f-x2x7k", "failing (refused)", "2.0 s ago", "in 2.0 s"):
        assert part in failing


def test_each_row_has_its_service() -> None:
    found = text(paper=Paper())
    names = [line.split()[0] for line in rows(found, "ENDPOINT")]
    assert names == ["shop/dns/udp", "shop/web:http", "shop/web:http", f"shop/{EMPTY['name']}:http"]
    assert "none" in rows(found, "ENDPOINT")[-1].split()


def test_what_is_not_counted_is_no_number() -> None:
    found = text(paper=Paper())
    (dns,) = [line for line in rows(found, "ENDPOINT") if "dns" in line]
    assert dns.split() == ["shop/dns/udp", "10.244.1.9:53", "unknown", "-", "-", "-"]


def test_states_are_coloured_and_columns_are_not_moved_by_it() -> None:
    paper = Paper(80, is_coloured=True)
    coloured = text(paper=paper)
    assert any("\033[31mfailing (refused)" in line for line in coloured)
    assert any("\033[32mhealthy" in line for line in coloured)
    bare = [line.replace("\033[0m", "") for line in coloured]
    for style in ("31", "32", "33", "2", "1"):
        bare = [line.replace(f"\033[{style}m", "") for line in bare]
    assert [line.rstrip() for line in bare] == text()


def test_the_head_says_what_is_wrong() -> None:
    problem = {**PROBLEM, "since": "2026-11-29T20:02:55Z", "lastStays": True}
    found = text(state(synced=False, draining=True, problems=[problem], troubles=["no route"], workerUser=None))
    assert found[0] == "kpf 0.1.0 on node-a, up 1 h 2 min, generation 7, NOT IN SYNC, draining"
    stays = "(for 12 min 5 s; the version before it stays in force)"
    whole = " ".join(map(str.strip, found))
    assert f"problem web.yaml: Service shop/web: spec.type: is wrong {stays}" in whole
    assert "the source of Services does not tell what it has: no route" in found
    assert found[-1] == "No Services."


def test_only_what_is_unhealthy_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path / "s", ALL) as path:
        assert status.main(path, unhealthy=True) == 0
        found = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in rows(found, "ENDPOINT")] == ["10.244.2.7:8080", "none"]
        assert [line.split()[0] for line in rows(found, "PORTALS")] == ["shop/web:http", f"shop/{EMPTY['name']}:http"]
        assert status.main(path, output="json", unhealthy=True) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)["services"]] == ["web", EMPTY["name"]]


def test_forms_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path / "s", ALL) as path:
        assert status.main(path, output="json") == 0
        assert json.loads(capsys.readouterr().out) == ALL
        assert status.main(path, output="yaml") == 0
        assert yaml.safe_load(capsys.readouterr().out) == ALL


def test_one_service_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    with answering(tmp_path / "s", state(WEB), asked) as path:
        assert status.main(path, "shop/web:http") == 0
        assert status.main(path, "web", "shop") == 0
        assert status.main(path, namespace="shop") == 0
    assert asked == [
        "/status?namespace=shop&name=web&port=http",
        "/status?namespace=shop&name=web",
        "/status?namespace=shop",
    ]
    capsys.readouterr()
    with answering(tmp_path / "t", state()) as path:
        assert status.main(path, "shop/wbe") == 1
        assert status.main(path, namespace="shop") == 0
        assert status.main(path, "shop/web", "dev") == 2
        assert status.main(path, "We b") == 2
    assert capsys.readouterr().err.splitlines() == [
        "kpf status: kpf serves no Service shop/wbe",
        "kpf status: 'shop/web' is not in namespace dev",
        "kpf status: 'We b' is no Service: it is given as [NAMESPACE/]NAME[:PORTNAME]",
    ]


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for watch in (False, True):
        assert status.main(str(tmp_path / "none"), watch=watch) == 1
        assert "no daemon answers" in capsys.readouterr().err


@contextmanager
def answering(path: Path, told: Mapping[str, Any], asked: list[str] | None = None) -> Iterator[str]:
    """Something at a control socket that answers everything with this; `asked`: is told what it was asked."""
    import socket

    body = json.dumps(told).encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(4096)
                    if asked is not None:
                        asked.append(request.split()[1].decode())
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(path)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def counted(name: str, total: int | None, size: int) -> dict[str, Any]:
    known = {"connectionsTotal": total, "bytesIn": size, "bytesOut": 2 * size}
    return service(name, endpoint("10.0.0.1:80"), **known)


def test_the_busiest_comes_first_with_its_rates() -> None:
    before = Sample(state(counted("a", 100, 0), counted("b", 100, 0), counted("c", None, 0), counted("d", 9, 9)), 10.0)
    last = Sample(state(counted("a", 104, 0), counted("b", 300, 4000), counted("c", None, 0), counted("d", 0, 0)), 12.0)
    found = watched(before, last, Paper(), height=None, now=NOW)
    table = rows(found, "ENDPOINTS")
    assert [line.split()[0] for line in table] == ["shop/b:http", "shop/a:http", "shop/c:http", "shop/d:http"]
    assert table[0].split()[2:] == ["3", "100", "2.0", "kB", "4.0", "kB", "0"]
    assert table[1].split()[3] == "2.0"
    # not counted, and counted anew
    assert [line.split()[3] for line in table[2:]] == ["-", "0.0"]
    first = watched(None, last, Paper(), height=None, now=NOW)
    assert all(line.split()[3] == "-" for line in rows(first, "ENDPOINTS"))


def test_what_is_watched_fits_the_screen() -> None:
    last = Sample(state(*(counted(f"s{number:03}", 1, 1) for number in range(200)), problems=[PROBLEM]), 1.0)
    found = watched(None, last, Paper(80), height=24, now=NOW)
    assert len(found) < 24
    assert found[-1] == f"and {200 - len(rows(found[:-1], 'ENDPOINTS'))} more"
    assert "problems: 1" in found


def test_names_are_cut_in_the_middle_and_only_as_far_as_needed() -> None:
    assert (cut("shop/web:http", 13), cut("shop/web:http", 9)) == ("shop/web:http", "shop…http")
    columns = [Column("A", may_be_cut=True), Column("B"), Column("C", may_be_cut=True)]
    assert fitting([30, 10, 20], columns, 64) == [30, 10, 20]
    assert fitting([30, 10, 20], columns, 54) == [20, 10, 20]
    assert fitting([30, 10, 20], columns, 50) == [18, 10, 18]
    # there is an end to it
    assert fitting([30, 10, 20], columns, 5) == [8, 10, 8]


def test_only_a_terminal_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import pty

    assert paper_of(io.StringIO()) == Paper()
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert paper_of(terminal) == Paper(80, is_coloured=True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert paper_of(terminal) == Paper(80)
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("TERM", "dumb")
        assert paper_of(terminal) == Paper(80)
    os.close(ours)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (59.6, "1 min"), (75, "1 min 15 s"), (3600, "1 h"), (90061, "1 d 1 h")],
)
def test_spans(seconds: float, shown: str) -> None:
    assert amounts.span(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (999.6, "1.0 kB"), (12345, "12 kB"), (3.2e15, "3.2 PB")],
)
def test_sizes(amount: float | None, shown: str) -> None:
    assert amounts.size(amount) == shown
