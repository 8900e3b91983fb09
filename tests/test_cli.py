"""The `kpf` command: what it takes, what it refuses, and whom it calls; and the log that `run` sets up."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kpf import __version__, cli
from kpf.arguments import COMMANDS
from kpf.commands import render
from kpf.config import Config, ConfigError
from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.model.snapshot import Problem, Snapshot
from kpf.named import Named
from kpf.observe import log
from kpf.plan.desired import DesiredState
from kpf.sources import manifests


@pytest.fixture
def shop(tmp_path: Path) -> Manifests:
    shop = Manifests(tmp_path / "manifests")
    shop.write("web.yaml", service("web", cluster_ips=["10.96.0.1"]), endpoint_slice("web", ["10.244.0.1"], port=8080))
    return shop


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The programs behind the commands, replaced: what each was called with."""
    calls: dict[str, list[Any]] = {}

    def part(module: str, function: str, answer: object) -> None:
        made = ModuleType(module)

        def called(*args: object, **kwargs: object) -> object:
            calls[module] = [*args, *kwargs.values()]
            return answer

        setattr(made, function, called)
        monkeypatch.setitem(sys.modules, module, made)

    part("kpf.master.master", "main", 1)
    part("kpf.demo", "main", 0)
    part("kpf.commands.cleanup", "main", 0)
    part("kpf.commands.status", "main", 1)
    part("kpf.commands.ready", "main", 1)
    part("kpf.commands.connections", "main", 1)
    part("kpf.commands.explain", "main", 2)

    def planned(*args: object) -> DesiredState:
        calls["kpf.commands.render"] = [*args]
        return DesiredState()

    monkeypatch.setattr(render, "planned", planned)
    return calls


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    logger = logging.getLogger("kpf")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, logger.level = before


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_run_calls_the_master_with_the_configuration(parts: dict[str, list[Any]], shop: Manifests) -> None:
    assert cli.main(["run", "--manifests", str(shop.directory), "--workers", "3", "--healthz-bind-address="]) == 1
    config, reload = parts["kpf.master.master"]
    assert isinstance(config, Config)
    assert (config.workers, config.manifests, config.healthz_bind_address) == (3, str(shop.directory), None)
    assert reload() == config


def test_a_reload_reads_the_file_anew(parts: dict[str, list[Any]], shop: Manifests, tmp_path: Path) -> None:
    path = tmp_path / "kpf.yaml"
    head = f"apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\nmanifests: {shop.directory}\n"
    path.write_text(head, encoding="utf-8")
    cli.main(["run", "--config", str(path), "--workers", "1"])
    _, reload = parts["kpf.master.master"]
    path.write_text(head + "drainTimeout: 7", encoding="utf-8")
    assert (reload().drain_timeout, reload().workers) == (7.0, 1)
    path.write_text(head + "drainTimeout: -7", encoding="utf-8")
    with pytest.raises(ConfigError):
        reload()


def test_every_mistake_is_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--workers",
        "0",
        "--bogus",
        "--bind-address",
        "--log-level",
        "loud",
        "--manifests",
        "/no/such",
        "stray",
    ]
    assert cli.main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert lines(err) == [
        "kpf: --bind-address: needs a value",
        "kpf: --bogus: unknown flag",
        "kpf: stray: not expected here",
        "kpf: --workers: must be an integer 1..64, not 0",
        "kpf: --log-level: must be one of 'debug', 'info', 'warning' or 'error', not 'loud'",
        "kpf: manifests: /no/such: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("command", ["run", "render"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no source of Services: neither --manifests nor --kubeconfig, and KUBERNETES_SERVICE_HOST is not set"),
        (["--kubeconfig", "/no/such.conf"], "/no/such.conf: cannot be read: No such file or directory"),
    ],
)
def test_a_source_that_can_never_work_ends_it_at_once(
    parts: dict[str, list[Any]], capsys: pytest.CaptureFixture[str], command: str, flags: list[str], message: str
) -> None:
    assert cli.main([command, *flags]) == 2
    assert lines(capsys.readouterr().err) == [f"kpf: {message}"]
    assert not parts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ruin"], "'ruin'"),
        ([], "usage:"),
        (["--bogus"], "usage:"),
        (["--bogus"], "--bogus: unknown flag"),
        (["status", "--workers", "1"], "--workers: unknown flag"),
        (["explain"], "the following arguments are required: WHAT"),
        (["explain", "a/b", "c/d"], "c/d: not expected here"),
        (["status", "--control-socket"], "--control-socket: needs a value"),
        (["status", "--ready", "--json"], "--json: not allowed with argument --ready"),
        (["status", "-o", "xml"], "invalid choice: 'xml'"),
        (["status", "--watch", "-o", "json"], "-o: not allowed with argument --watch"),
        (["cleanup", "now"], "now: not expected here"),
        (["check", "--bogus"], "--bogus: unknown flag"),
        (["run", "--work", "1"], "--work: unknown flag"),
        (["demo", "--anything"], "--anything: unknown flag"),
        (["ruin"], "'ruin' is no command, did you mean run?"),
        (["check", f"--manifest={'/shop' * 9}"], "/shop: unknown flag, did you mean --manifests?"),
        (["status", "--jsno"], "--jsno: unknown flag, did you mean --json?"),
        # of another command alone
        (["status", "--manifest"], "--manifest: unknown flag\n"),
    ],
)
def test_wrong_usage(
    parts: dict[str, list[Any]], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert not parts


@pytest.mark.parametrize(
    ("arguments", "part", "given", "status"),
    [
        (["demo"], "kpf.demo", [False], 0),
        (["demo", "--keep"], "kpf.demo", [True], 0),
        (["cleanup"], "kpf.commands.cleanup", [], 0),
        (["status"], "kpf.commands.status", ["/run/kpf/control.sock", "", "", "", False, False], 1),
        (
            ["status", "--json", "--control-socket", "/tmp/s"],
            "kpf.commands.status",
            ["/tmp/s", "", "", "json", False, False],
            1,
        ),
        (
            ["status", "web:http", "-n", "shop", "-o", "wide", "--unhealthy"],
            "kpf.commands.status",
            ["/run/kpf/control.sock", "web:http", "shop", "wide", True, False],
            1,
        ),
        (
            ["status", "--watch"],
            "kpf.commands.status",
            ["/run/kpf/control.sock", "", "", "", False, True],
            1,
        ),
        (["connections"], "kpf.commands.connections", ["/run/kpf/control.sock", "", False], 1),
        (
            ["connections", "10.0.0.1", "--json", "--control-socket", "/tmp/s"],
            "kpf.commands.connections",
            ["/tmp/s", "10.0.0.1", True],
            1,
        ),
        (["status", "--ready", "--control-socket", "/tmp/s"], "kpf.commands.ready", ["/tmp/s"], 1),
        (["explain", "a/b"], "kpf.commands.explain", ["/run/kpf/control.sock", "a/b", None, False], 2),
        (
            ["explain", ":1", "--from", "::1", "--json", "--control-socket", "/tmp/s"],
            "kpf.commands.explain",
            ["/tmp/s", ":1", "::1", True],
            2,
        ),
    ],
)
def test_who_does_it(
    parts: dict[str, list[Any]], arguments: list[str], part: str, given: list[Any], status: int
) -> None:
    assert cli.main(arguments) == status
    assert parts == {part: given}


def test_render(parts: dict[str, list[Any]], shop: Manifests) -> None:
    assert cli.main(["render", "--manifests", str(shop.directory), "--workers", "2"]) == 0
    config, _ = parts["kpf.commands.render"]
    assert config.workers == 2


@pytest.mark.usefixtures("parts")
def test_check_of_what_is_right(shop: Manifests, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--manifests", str(shop.directory)]) == 0
    assert capsys.readouterr() == ("no problems\n1 file: 1 Service, 1 EndpointSlice\n", "")


@pytest.mark.usefixtures("parts")
def test_check_prints_the_problems_of_configuration_and_manifests(
    shop: Manifests, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.write("bad.yaml", service("bad", cluster_ips=["10.96.0.2"], ports=[{"port": 70000}]))
    shop.write_text("worse.yaml", "a: [")
    assert cli.main(["check", "--manifests", str(shop.directory), "--workers", "x", "--drain-timeout", "y"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    told = ["--workers", "--drain-timeout", "worse.yaml", "bad.yaml", "3 files"]
    assert [line.split(":")[0] for line in lines(out)] == told
    assert lines(out)[3] == "bad.yaml: Service default/bad: spec.ports[0].port: must be at most 65535, not 70000"


@pytest.mark.usefixtures("parts")
def test_check_prints_the_problems_of_the_plan(
    shop: Manifests, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(config: Config, snapshot: Snapshot) -> DesiredState:
        assert len(snapshot.services) == config.workers == 1
        return DesiredState(problems=(Problem("web.yaml", "Service default/web", "spec.clusterIPs", "is taken"),))

    monkeypatch.setattr(render, "planned", planned)
    assert cli.main(["check", "--manifests", str(shop.directory), "--workers", "1"]) == 2
    assert lines(capsys.readouterr().out)[0] == "web.yaml: Service default/web: spec.clusterIPs: is taken"


@pytest.mark.usefixtures("parts")
def test_a_warning_costs_nothing_unless_check_is_strict(shop: Manifests, capsys: pytest.CaptureFixture[str]) -> None:
    shop.write("typo.yaml", service("typo", cluster_ips=["10.96.0.3"]) | {"spek": {}})
    arguments = ["check", "--manifests", str(shop.directory)]
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert lines(told.out) == [
        "warning: typo.yaml: Service default/typo: spek: is no field of Service, did you mean spec?",
        "no problems, 1 warning",
        "2 files: 2 Services, 1 EndpointSlice",
    ]
    assert told.err == ""
    assert cli.main([*arguments, "--strict"]) == 2
    assert capsys.readouterr() == told


def test_warnings_of_the_configuration_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kpf.yaml"
    path.write_text("apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\nhandoverTimeout: 1\n", encoding="utf-8")
    arguments = ["check", "--config", str(path), "--config-only"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith("warning: handoverTimeout 1 s is less than drainTimeout 30 s")
    assert cli.main([*arguments, "--strict"]) == 2


def test_no_source_at_all_is_a_warning_of_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli.main(["check"]) == 0
    first, last = lines(capsys.readouterr().out)
    assert first.startswith("warning: no source of Services: neither --manifests nor --kubeconfig")
    assert last == "no problems, 1 warning"


def test_check_of_the_configuration_alone_says_what_a_reload_would_refuse(
    shop: Manifests, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.write_text("bad.yaml", "kind: [")
    path = tmp_path / "kpf.yaml"
    path.write_text(f"apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\nmanifests: {shop.directory}\n")
    arguments = ["check", "--config", str(path), "--config-only"]
    assert cli.main(arguments[:-1]) == 2
    assert "bad.yaml" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "no problems of the configuration\n"
    path.write_text(path.read_text() + "workers: none\n")
    assert cli.main(arguments) == 2
    assert "workers: " in capsys.readouterr().out
    # it is of the configuration of all sources
    path.write_text("apiVersion: kpf.io/v1alpha1\nkind: KpfConfiguration\nclientConnection: {kubeconfig: /no/such}\n")
    assert cli.main(arguments) == 0


@pytest.mark.usefixtures("parts")
def test_check_says_of_each_file_why_it_cannot_be_read(
    shop: Manifests, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MAX_FILE_BYTES", 1 << 20)
    (shop.directory / "binary.yaml").write_bytes(bytes(range(128, 256)) * 100)
    (shop.directory / "huge.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    (shop.directory / "gone.yaml").symlink_to("nowhere")
    laughs = "".join(f"l{one}: &l{one} [{', '.join([f'*l{one - 1}'] * 10)}]\n" for one in range(1, 10))
    shop.write_text("laughs.yaml", f"l0: &l0 [ha]\n{laughs}")
    os.mkfifo(shop.directory / "pipe.yaml")
    (shop.directory / "a\nb.yaml").write_text("a: {\n", encoding="utf-8")
    (shop.directory / os.fsdecode(b"\xff.yaml")).write_text("a: {\n", encoding="utf-8")
    assert cli.main(["check", "--manifests", str(shop.directory)]) == 2
    told = lines(capsys.readouterr().out)
    assert [line.partition(": ")[0] for line in told[:-1]] == [
        "a\\nb.yaml:2",
        "binary.yaml:1",
        "gone.yaml",
        "huge.yaml",
        "laughs.yaml:6",
        "pipe.yaml",
        "\\udcff.yaml:2",
    ]
    assert told[-1] == "8 files: 1 Service, 1 EndpointSlice"


def test_check_of_a_directory_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--manifests", "/no/such"]) == 2
    assert capsys.readouterr().out == "/no/such: cannot be read: No such file or directory\n"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"kpf {__version__}\n")
    for flag in ("--workers N", "--bind-address IPS", "--proxy-port-range A-B", "--log-format FORMAT"):
        assert flag in out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_help_of_a_command_has_its_flags_and_its_exit_statuses(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: kpf {command} ")
    found = dict(re.findall(r"^  (\d)  (.+)$", out.partition("exit status:\n")[2], re.M))
    assert found == {str(status): text for status, text in COMMANDS[command].exit_statuses.items()}
    assert ("--keep" in out, "--strict" in out, "--ready" in out) == (
        command == "demo",
        command == "check",
        command == "status",
    )


def test_the_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kpf", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == f"kpf {__version__}\n"
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {"pydantic", "yaml", "kubernetes", "pyroute2", "aiohttp", "asyncio", "rich"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log(monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.set_up("debug", form)
    log.set_up("info", form)
    log.logger.debug("unseen")
    log.logger.info("%d frontends", 3)
    log.logger.info("%s is ready", Named("worker 2 (pid 7)", worker=2, pid=7))
    log.logger.warning("a name\nwith \x1b[31m two lines")
    try:
        raise ValueError("no")
    except ValueError:
        log.logger.exception("it broke")
    text = stream.getvalue()
    if form == "json":
        found = [json.loads(line) for line in lines(text)]
        assert [(one["level"], one["message"]) for one in found] == [
            ("info", "3 frontends"),
            ("info", "worker 2 (pid 7) is ready"),
            ("warning", "a name\nwith \x1b[31m two lines"),
            ("error", "it broke"),
        ]
        assert all(one["time"].endswith("Z") for one in found)
        assert "ValueError: no" in found[3]["exception"]
        assert [(one.get("worker"), one.get("pid")) for one in found] == [
            (None, None),
            (2, 7),
            (None, None),
            (None, None),
        ]
    else:
        first, ready, second, third, *trace = lines(text)
        assert first.endswith("Z info 3 frontends")
        assert ready.endswith("Z info worker 2 (pid 7) is ready")
        assert second.endswith(r"Z warning a name\nwith \x1b[31m two lines")
        assert third.endswith("Z error it broke")
        assert trace[-1] == "ValueError: no"
