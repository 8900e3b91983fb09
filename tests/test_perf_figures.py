"""The arithmetic of the load scripts: percentiles, schedules, answers, summaries, and files of endpoints."""

import io
import json
import math
from array import array
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from kpf.lab.manifests import endpoint_slice, service
from perf import address, churn, connections, kills, report
from perf.churn import Change, until_first
from perf.load.arrivals import Arrivals
from perf.load.client import Answers, WrongAnswerError
from perf.load.kept import Schedule
from perf.load.result import Result, percentile
from perf.report import Column, Row
from perf.serve import BadRequestError, Request, parse
from perf.slices import SliceFile
from perf.subject import SubjectError


@pytest.mark.parametrize(("q", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentile_is_the_nearest_rank(q: float, expected: float) -> None:
    assert percentile(array("d", range(100, 0, -1)), q) == expected


def test_a_result_without_units_has_no_rate_and_no_latency() -> None:
    nothing = Result(0, 0.0, array("d"), {"timed out": 3, "ECONNRESET": 1})
    assert nothing.rate_per_s == 0
    assert math.isnan(nothing.percentile_ms(99))
    assert nothing.failed == 4


def test_a_result_tells_its_rate_and_latency_in_milliseconds() -> None:
    result = Result(10, 4.0, array("d", [0.001, 0.002, 0.003]), {})
    assert result.rate_per_s == 2.5
    assert result.percentile_ms(50) == 2.0


def test_open_loop_requests_are_due_at_even_intervals_whenever_they_are_asked() -> None:
    schedule = Schedule(100.0, 1.0, 4.0)
    due_s = []
    # nobody could ask before the end: what was due is due all the same
    while (next_s := schedule.next_s(105.0)) < math.inf:
        due_s.append(next_s)
        assert schedule.left == 4 - len(due_s) + 1
        schedule.taken()
    assert due_s == [100.0, 100.25, 100.5, 100.75]
    assert schedule.left == 0


def test_closed_loop_requests_are_due_at_once_until_the_end() -> None:
    schedule = Schedule(100.0, 1.0, None)
    for _ in range(3):
        assert schedule.next_s(100.9) == 100.9
        schedule.taken()
    assert schedule.next_s(101.0) == math.inf
    assert schedule.left == 0


def test_answers_are_whole_when_head_and_body_are_there() -> None:
    answers = Answers()
    whole = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\n\r\nbody"
    assert [end for end in range(len(whole) + 1) if answers.is_whole(whole[:end])] == [len(whole)]
    # and from what it knows by now
    assert answers.is_whole(whole)
    assert not answers.is_whole(whole[:-1])


@pytest.mark.parametrize(
    "wrong",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ntoo long",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"nonsense without an end" * 1000,
    ],
)
def test_answers_that_are_wrong(wrong: bytes) -> None:
    with pytest.raises(WrongAnswerError):
        Answers().is_whole(wrong)


@pytest.mark.parametrize("text", ["10.96.0.10:80", "[fd00::1]:65535"])
def test_addresses_are_shown_as_they_are_read(text: str) -> None:
    assert address.show(address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "80", "10.96.0.10", "10.96.0.10:0", "10.96.0.10:65536", "fd00::1:80", "shop:80"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"ip:port|port is no number"):
        address.parse(text)


def test_the_summary_leaves_out_what_is_not_known() -> None:
    rows = [Row({"cpu": 1.0, "p99": math.nan}), Row({"cpu": 4.0}), Row({"cpu": 2.0, "p99": 7.0})]
    assert report.summary(rows) == {
        "median": {"cpu": 2.0, "p99": 7.0},
        "lowest": {"cpu": 1.0, "p99": 7.0},
        "highest": {"cpu": 4.0, "p99": 7.0},
    }


def test_table_and_json_have_each_round_of_each_case() -> None:
    columns = [Column("rate", "rate", "conn/s", 0), Column("cpu", "CPU", "µs", 1)]
    rows = [
        Row({"rate": 1000.0 * (number + 1)}, {"ECONNRESET": 1}, case) for number in (0, 1) for case in ("up", "down")
    ]
    out = io.StringIO()
    report.show("How many?", columns, rows, out)
    text = out.getvalue()
    assert "1,000" in text
    assert "errors: 4 ECONNRESET" in text
    assert "CPU" not in text
    assert text.isascii()
    content = json.loads(report.as_json("some", "How many?", {}, columns, rows))
    assert [case["case"] for case in content["cases"]] == ["up", "down"]
    assert [len(case["rounds"]) for case in content["cases"]] == [2, 2]
    assert content["cases"][0]["median"] == {"rate": 1500.0}
    assert content["errors"] == {"ECONNRESET": 4}
    assert {"kernel", "cpu", "cores", "python", "kpf", "date"} <= content["machine"].keys()


def _times(
    added_s: float, began_s: list[float], other_s: list[float], *, removed_s: float | None = None
) -> list[object]:
    changes = [Change(added_s, "10.0.0.1", True)]
    changes += [] if removed_s is None else [Change(removed_s, "10.0.0.1", False)]
    texts = {"10.0.0.1:8080": array("d", began_s), "10.0.0.11:8080": array("d", other_s)}
    return list(until_first(changes, Arrivals(Result(0, 0, array("d"), {}), texts)))


def test_a_new_endpoint_has_the_time_of_its_first_connection() -> None:
    assert _times(10.0, [10.5, 9.5, 10.25], [10.001]) == [0.25]


def test_an_endpoint_whose_removal_had_no_effect_yet_has_no_time() -> None:
    assert _times(10.0, [9.99, 10.01], []) == [None]


def test_an_endpoint_that_got_no_connection_before_its_next_removal_has_no_time() -> None:
    assert _times(10.0, [11.5], [], removed_s=11.0) == [None]
    assert _times(10.0, [], [10.1]) == [None]


def _slice_file(path: Path) -> Path:
    objects = [service("shop", cluster_ips=["10.96.0.10"]), endpoint_slice("shop", ["10.0.0.1", "10.0.0.2"], port=80)]
    if path.suffix == ".json":
        path.write_text(json.dumps({"kind": "List", "items": objects}))
    else:
        path.write_text("# a comment\n" + yaml.dump_all(objects))
    return path


@pytest.mark.parametrize("name", ["shop.yaml", "shop.json"])
def test_endpoints_go_and_the_file_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    path = _slice_file(tmp_path / name)
    path.chmod(0o640)
    before = path.read_bytes()
    with SliceFile(path) as file:
        assert file.addresses == ["10.0.0.1", "10.0.0.2"]
        file.write_without([0])
        text = path.read_text()
        assert "10.0.0.1" not in text
        assert "10.0.0.2" in text
        assert "10.96.0.10" in text
        if name.endswith(".json"):
            json.loads(text)
        file.write_without([])
        assert "10.0.0.1" in path.read_text()
        file.write_without([1])
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be read"),
        ("kind: Service", "exactly one EndpointSlice, and has 0"),
        ("kind: EndpointSlice\n---\nkind: EndpointSlice", "and has 2"),
        ("kind: EndpointSlice\nendpoints: [{addresses: [10.0.0.1]}]", "two endpoints"),
    ],
)
def test_files_that_cannot_be_churned(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    with pytest.raises(SubjectError, match=why):
        SliceFile(path)


def test_a_missing_file_cannot_be_churned(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="No such file"):
        SliceFile(tmp_path / "shop.yaml")


def test_heads_are_read() -> None:
    assert parse(b"GET / HTTP/1.1\r\nHost: a:80") == Request(0, False, "name")
    assert parse(b"GET /bytes/17 HTTP/1.1\r\nCONNECTION:Close") == Request(0, True, "bytes", pour=17)
    assert parse(b"PUT /any HTTP/1.0\r\nContent-Length: 5\r\nConnection: keep-alive") == Request(5, False, "count")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", "400"),
        (b"GET /", "400"),
        (b"GET / SPDY/3", "400"),
        (b"GET / HTTP/1.1\r\nno colon", "400"),
        (b"PUT / HTTP/1.1\r\nContent-Length: -1", "400"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999", "400"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked", "501"),
    ],
)
def test_bad_heads(head: bytes, status: str) -> None:
    with pytest.raises(BadRequestError, match=status):
        parse(head)


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        (connections, ["nowhere"]),
        (connections, ["--seconds", "0"]),
        (connections, ["--seconds", "nan"]),
        (connections, ["--at-once", "10001"]),
        (connections, ["--rounds", "1.5"]),
        (connections, ["--closes", "nobody"]),
        (connections, ["--control-socket", "/run/kpf/control.sock"]),
        (connections, ["--json", "/no/such/directory/figures.json"]),
        (kills, ["127.0.0.1:1"]),
        (churn, ["127.0.0.1:1"]),
    ],
)
def test_wrong_usage_is_said_before_anything_is_done(
    script: ModuleType, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.SCRIPT.main(argv)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
