"""What is said where somebody may not do what they ask for: what to do, and which capability it takes."""

import errno
from pathlib import Path

import pytest

from kpf import cli
from kpf.commands import cleanup, ready, status
from kpf.master import capabilities
from kpf.master.lock import AlreadyRunningError
from kpf.uapi.process import CAP

DENIED = PermissionError(errno.EACCES, "Permission denied")
REFUSED = PermissionError(errno.EPERM, "Operation not permitted")
SOCKET = "/run/kpf/control.sock"


def may(monkeypatch: pytest.MonkeyPatch, directory: Path, *held: int) -> None:
    """This process has these capabilities, as far as /proc tells."""
    path = directory / "status"
    path.write_text(
        f"Name:\tkpf\nCapPrm:\tffffffffffffffff\nCapEff:\t{sum(1 << one for one in held):016x}\nCapBnd:\t0\n"
    )
    monkeypatch.setattr(capabilities, "STATUS", path)


@pytest.mark.parametrize(
    ("held", "lacks"),
    [
        ((), "CAP_NET_ADMIN and CAP_KILL"),
        ((CAP.KILL,), "CAP_NET_ADMIN"),
        ((CAP.NET_ADMIN, CAP.SYS_ADMIN), "CAP_KILL"),
    ],
)
@pytest.mark.parametrize("error", [REFUSED, PermissionError(errno.EACCES, "Permission denied", "/run/kpf")])
def test_a_daemon_that_lacks_capabilities_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: tuple[int, ...], lacks: str, error: PermissionError
) -> None:
    may(monkeypatch, tmp_path, *held)
    assert capabilities.refused(error) == f"{error}; it lacks {lacks}: run it as root, or with these"


def test_who_has_them_all_is_told_of_the_file_or_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may(monkeypatch, tmp_path, CAP.NET_ADMIN, CAP.KILL)
    assert capabilities.refused(PermissionError(errno.EACCES, "no", "/run/kpf")) == "[Errno 13] no: '/run/kpf'"
    assert "needs CAP_NET_ADMIN in the user namespace" in capabilities.refused(REFUSED)


@pytest.mark.parametrize("form", [[], ["--json"], ["--ready"]])
def test_status_as_somebody_else_says_to_run_it_as_root(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    def denied(*_: object) -> None:
        raise DENIED

    monkeypatch.setattr(status, "ask", denied)
    monkeypatch.setattr(ready, "_ask", denied)
    assert cli.main(["status", *form, "--control-socket", SOCKET]) == 1
    assert capsys.readouterr().err.endswith(
        f": no permission to ask the daemon on {SOCKET}: run it as root, whose socket it is\n"
    )


@pytest.mark.parametrize(
    ("pid", "remedy"),
    [
        (4711, "stop it first (systemctl stop kpf, or kill 4711)"),
        (0, "stop it first, it runs in a container (delete its pod, or its DaemonSet)"),
    ],
)
def test_cleanup_beside_a_daemon_says_what_to_stop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pid: int, remedy: str
) -> None:
    def running() -> None:
        raise AlreadyRunningError(f"kpf already runs, pid {pid}", pid)

    monkeypatch.setattr(cleanup, "DaemonLock", running)
    assert cli.main(["cleanup"]) == 1
    told = f"kpf cleanup: kpf already runs, pid {pid}; it would put everything back: {remedy}\n"
    assert capsys.readouterr() == ("", told)


def test_cleanup_without_privileges_names_the_capability(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise REFUSED

    monkeypatch.setattr(cleanup, "DaemonLock", refused)
    assert cli.main(["cleanup"]) == 1
    assert "CAP_NET_ADMIN" in capsys.readouterr().err
