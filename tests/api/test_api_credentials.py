"""Credentials that are rotated, revoked, expired or half written while the source follows its server."""

import shutil
import time
from pathlib import Path

import orjson
import pytest

from kpf.sources.api import access
from tests.api.checks import (
    Make,
    Messages,
    asked,
    assert_goes_on,
    assert_truth,
)
from tests.api.follower import Follower
from tests.apiserver import ApiServer


def test_a_token_that_is_rotated(server: ApiServer, follow: Make, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{server.token}\n")
    kpf = follow(server.kubeconfig(tmp_path / "config", token_file=file))
    kpf.until()
    since_s = time.monotonic()
    server.set_tokens("second")
    server.end_watches()
    kpf.until_holds(lambda: kpf.source.troubles == ("401 Unauthorized",))
    file.write_text("second\n")
    assert_goes_on(server, kpf, since_s)
    kpf.until_holds(lambda: not kpf.source.troubles)


def test_a_plugin_s_token_that_expires(server: ApiServer, follow: Make, tmp_path: Path) -> None:
    version, program = "client.authentication.k8s.io/v1", tmp_path / "plugin"

    def give(token: str) -> None:
        given = {"kind": "ExecCredential", "apiVersion": version, "status": {"token": token}}
        (tmp_path / "given").write_bytes(orjson.dumps(given))

    program.write_text(f"#!/bin/sh\ncat {tmp_path}/given\n")
    program.chmod(0o700)
    path = server.kubeconfig(tmp_path / "config")
    path.write_text(
        path.read_text().replace("user: {}", f"user: {{exec: {{apiVersion: {version}, command: ./plugin}}}}")
    )
    give(server.token)
    kpf = follow(path)
    kpf.until()
    since_s = time.monotonic()
    give("second")
    server.set_tokens("second")
    server.end_watches()
    assert_goes_on(server, kpf, since_s)
    assert 401 in [one.status for one in asked(server, since_s)]


def test_a_client_certificate_and_its_authority_that_are_replaced(
    server: ApiServer, follow: Make, tmp_path: Path
) -> None:
    path = server.kubeconfig(tmp_path / "config", client=server.client_certificate())
    kpf = follow(path)
    kpf.until()
    since_s = time.monotonic()
    server.replace_client_ca()
    server.end_watches()
    kpf.until_holds(lambda: kpf.source.troubles == ("401 Unauthorized",))
    server.kubeconfig(path, client=server.client_certificate())
    assert_goes_on(server, kpf, since_s)


def test_a_client_certificate_that_has_expired(server: ApiServer, follow: Make, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "config", client=server.client_certificate(lifetime_s=-60.0))
    kpf = follow(path)
    kpf.until_holds(lambda: kpf.source.troubles == ("401 Unauthorized",))
    assert kpf.source.read() is None
    server.kubeconfig(path, client=server.client_certificate())
    assert_truth(server, kpf.until())


def test_a_server_s_authority_that_is_replaced(server: ApiServer, kpf: Follower, tmp_path: Path) -> None:
    since_s = time.monotonic()
    server.replace_certificate(ca=True)
    server.reset()
    distrusted = "its certificate is not trusted: unable to get local issuer certificate"
    kpf.until_holds(lambda: kpf.source.troubles == (distrusted,))
    assert server.ca_path is not None
    shutil.copyfile(server.ca_path, tmp_path / "config.ca.crt")
    assert_goes_on(server, kpf, since_s)


def test_a_server_that_shows_another_certificate_of_the_same_authority(server: ApiServer, kpf: Follower) -> None:
    since_s = time.monotonic()
    server.replace_certificate()
    server.reset()
    assert_goes_on(server, kpf, since_s)


@pytest.mark.parametrize("content", ["apiVersion: v1\nclusters: [", "", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_is_half_written_leaves_the_credentials(
    server: ApiServer, kpf: Follower, tmp_path: Path, messages: Messages, content: str
) -> None:
    since_s = time.monotonic()
    (tmp_path / "config").write_text(content)
    server.end_watches()
    assert_goes_on(server, kpf, since_s)
    complaints = [one for one in messages() if one.startswith("the credentials cannot be read anew")]
    assert len(complaints) == 1
    assert str(tmp_path / "config") in complaints[0]


def test_a_plugin_that_fails_leaves_the_credentials(server: ApiServer, kpf: Follower, tmp_path: Path) -> None:
    since_s = time.monotonic()
    path = tmp_path / "config"
    asked_for = "exec: {apiVersion: client.authentication.k8s.io/v1, command: 'false'}"
    path.write_text(path.read_text().replace(f"user:\n    token: {server.token}", f"user: {{{asked_for}}}"))
    assert "exec" in path.read_text()
    server.end_watches()
    assert_goes_on(server, kpf, since_s)


def test_credentials_that_are_none_at_the_start(
    server: ApiServer, follow: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOAD_LIMIT_S", 0.2)
    path = tmp_path / "config"
    path.write_text("")
    kpf = follow(path)
    kpf.until_holds(lambda: bool(kpf.source.troubles))
    assert kpf.source.troubles == (f"{path}: is no kubeconfig: it must be one mapping of kind Config",)
    server.kubeconfig(path, token=server.token)
    assert_truth(server, kpf.until())
