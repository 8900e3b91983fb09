"""Credentials: every usual mistake in a kubeconfig or a pod's service account, each told by file and field."""

import asyncio
import base64
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import orjson
import pytest
import trustme
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from kubernetes.aio.client import Configuration

from kpf import cli
from kpf.lab.machine import wait_until
from kpf.sources.api import access, kubeconfig
from kpf.sources.api.access import Access
from kpf.sources.api.kubeconfig import AccessError

SERVER = "https://10.0.0.1:6443"
CLUSTER, USER = "clusters[lab].cluster", "users[admin].user"
NOT_FOUND = "No such file or directory"

Document = dict[str, Any]
Change = Callable[[Document], object]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def directory(tmp_path: Path, ca: trustme.CA) -> Path:
    """With a CA, a client's certificate and its key."""
    ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    client = ca.issue_cert(common_name="admin")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    return tmp_path


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "config"


def document(**user: object) -> Document:
    """A kubeconfig as it should be, of two clusters and two users; the files it names are beside it."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [
            {"name": "other", "context": {"cluster": "other", "user": "other"}},
            {"name": "lab", "context": {"cluster": "lab", "user": "admin"}},
        ],
        "clusters": [
            {"name": "other", "cluster": {"server": "https://192.0.2.1", "certificate-authority": "no-such.crt"}},
            {"name": "lab", "cluster": {"server": SERVER, "certificate-authority": "ca.crt"}},
        ],
        "users": [
            {"name": "other", "user": {"tokenFile": "no-such"}},
            {"name": "admin", "user": user or {"token": "secret"}},
        ],
    }


def write(path: Path, changed: Document) -> Path:
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return path


def complaint(path: Path | str = "") -> str:
    """What `check` says, and `load` as well."""
    one = Access(str(path))
    with pytest.raises(AccessError) as checked:
        one.check()
    with pytest.raises(AccessError) as loaded:
        load(one)
    assert str(loaded.value) == str(checked.value)
    return str(checked.value)


Found = TypeVar("Found")


def looked_at(one: Access, look: Callable[[Configuration], Found]) -> Found:
    """What `look` finds while the files of the configuration are there."""

    async def found() -> Found:
        async with one.loaded() as configuration:
            return look(configuration)

    return asyncio.run(found())


def load(one: Access) -> Configuration:
    return looked_at(one, lambda configuration: configuration)


def contents(one: Access) -> list[str]:
    """Of the authority, the certificate and the key."""
    return looked_at(one, lambda found: [_text(path) for path in (found.ssl_ca_cert, found.cert_file, found.key_file)])


def _text(path: str | None) -> str:
    return Path(path).read_text() if path else ""


def authorization(one: Access) -> str:
    return str(load(one).api_key.get("BearerToken", ""))


# ---- the file


def test_a_file_that_is_missing_or_cannot_be_read(tmp_path: Path) -> None:
    assert complaint(tmp_path / "config") == f"{tmp_path}/config: cannot be read: {NOT_FOUND}"
    assert complaint(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert complaint(loop) == f"{loop}: cannot be read: Too many levels of symbolic links"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [\n", ":3: is not YAML: did not find expected node content"),
        (b"a: 1\na: 2\n", ":2: the key 'a' is given twice in one mapping"),
        (b"\xff\xfe\x00", ": is not UTF-8"),
        (b"", ": is no kubeconfig: it must be one mapping of kind Config"),
        (b"- a\n", ": is no kubeconfig: it must be one mapping of kind Config"),
        (b"<html>", ": is no kubeconfig: it must be one mapping of kind Config"),
        (b"a: 1\n---\na: 2\n", ": is no kubeconfig: it must be one mapping of kind Config"),
        (b"{}", ": current-context: is required"),
    ],
)
def test_a_file_that_is_no_kubeconfig(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert complaint(path) == f"{path}{message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("current-context"), "current-context: is required"),
        (lambda one: one.update({"current-context": ""}), "current-context: is required"),
        (lambda one: one.update({"current-context": "x"}), "current-context: 'x' is not among the contexts"),
        (lambda one: one.pop("contexts"), "contexts: is required"),
        (lambda one: one.update(clusters={}), "clusters: must be a list, not an object"),
        (lambda one: one["users"][0].update(name=7), "users[0].name: must be text, not 7"),
        (
            lambda one: one["contexts"][1].update(context=None),
            "contexts[lab].context.cluster: is required",
        ),
        (
            lambda one: one["contexts"][1]["context"].update(cluster="x"),
            "contexts[lab].context.cluster: 'x' is not among the clusters",
        ),
        (
            lambda one: one["contexts"][1]["context"].update(user="x"),
            "contexts[lab].context.user: 'x' is not among the users",
        ),
        (lambda one: one.pop("users"), "contexts[lab].context.user: 'admin' is not among the users"),
    ],
)
def test_a_context_that_leads_nowhere(path: Path, change: Change, message: str) -> None:
    changed = document()
    change(changed)
    assert complaint(write(path, changed)) == f"{path}: {message}"


# ---- the cluster


LONG_LABEL = 64 * "a"


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (None, ", not null"),
        ("", ", not ''"),
        ("10.0.0.1:6443", ", not '10.0.0.1:6443'"),
        ("https://", ", not 'https://'"),
        ("https://10.0.0.1:99999", ", not 'https://10.0.0.1:99999'"),
        ("https://10.0.0.1\n", ", not 'https://10.0.0.1\\n'"),
        ("ftp://a", ", not 'ftp://a': 'ftp' is not supported"),
        (6443, ", not 6443"),
        ("https://user:pw@10.0.0.1", ", without a user and a password"),
        ("https://user:pw@", ""),
        ("user:pw@10.0.0.1:6443", ""),
    ],
)
def test_an_address_that_is_none(path: Path, server: object, reason: str) -> None:
    changed = document()
    changed["clusters"][1]["cluster"]["server"] = server
    message = f"must be a URL such as https://10.0.0.1:6443{reason}"
    assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.server: {message}"


@pytest.mark.parametrize("host", ["a..b", f"{LONG_LABEL}.b", "xn--a"])
def test_a_host_that_no_name_can_be(path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    addresses = {"server": f"https://{host}:6443", "proxy-url": f"http://{host}", "tls-server-name": host}
    for field, given in addresses.items():
        changed = document()
        changed["clusters"][1]["cluster"][field] = given
        message = f"must be the name of a host, not {host!r}"
        if field != "tls-server-name":
            message = f"its host {message}"
        assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.{field}: {message}"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    assert complaint() == f"service account.server: its host must be the name of a host, not {host!r}"


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        (3128, ", not 3128"),
        ("socks5://10.0.0.2:1080", ", not 'socks5://10.0.0.2:1080': 'socks5' is not supported"),
        ("socks5://user:pw@10.0.0.2:1080", ": 'socks5' is not supported"),
        ("10.0.0.2", ", not '10.0.0.2'"),
    ],
)
def test_a_proxy_that_cannot_be_used(path: Path, proxy: object, reason: str) -> None:
    changed = document()
    changed["clusters"][1]["cluster"]["proxy-url"] = proxy
    message = f"must be a URL such as http://10.0.0.2:3128{reason}"
    assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.proxy-url: {message}"


def test_a_proxy_and_a_name_in_the_certificate(path: Path) -> None:
    changed = document()
    cluster = changed["clusters"][1]["cluster"]
    cluster |= {"proxy-url": "http://user:pw@proxy.example:3128", "tls-server-name": "m\u00fcnchen.example"}
    found = load(Access(str(write(path, changed))))
    assert (found.proxy, found.tls_server_name) == (cluster["proxy-url"], cluster["tls-server-name"])
    cluster["tls-server-name"] = 7
    message = "must be the name of a host, not 7"
    assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.tls-server-name: {message}"
    cluster |= {"proxy-url": "", "tls-server-name": None}
    Access(str(write(path, changed))).check()


def test_a_name_that_no_file_can_have(path: Path, directory: Path) -> None:
    message = "cannot be read: no file can have that name"
    for field in ("client-certificate", "tokenFile"):
        shown = repr(f"{directory}/a\0b")
        assert complaint(write(path, document(**{field: "a\0b"}))) == f"{path}: {USER}.{field}: {shown} {message}"
    assert complaint("a\0b") == f"a\0b: {message}"
    assert Access("a\0b").stamp() == (f"a\0b: {message}",)


def test_an_authority_that_cannot_be_used(path: Path, directory: Path) -> None:
    changed = document()
    cluster = changed["clusters"][1]["cluster"]
    write(path, changed)
    (directory / "ca.crt").write_text("nonsense")
    assert complaint(path) == f"{path}: certificate-authority: holds no certificate that can be used"
    (directory / "ca.crt").unlink()
    absolute = directory / "ca.crt"
    assert complaint(path) == f"{path}: {CLUSTER}.certificate-authority: {absolute} cannot be read: {NOT_FOUND}"
    for data in ("%%%", "é"):
        cluster["certificate-authority-data"] = data
        assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.certificate-authority-data: is not base64"
    cluster["certificate-authority-data"] = base64.b64encode(b"nonsense").decode()
    assert complaint(write(path, changed)) == f"{path}: certificate-authority: holds no certificate that can be used"


def test_data_may_be_broken_into_lines_and_wins_over_a_file(path: Path, directory: Path) -> None:
    changed = document()
    data = base64.encodebytes((directory / "ca.crt").read_bytes()).decode()
    assert data.count("\n") > 2
    changed["clusters"][1]["cluster"] |= {"certificate-authority-data": data, "certificate-authority": "no-such.crt"}
    assert contents(Access(str(write(path, changed)))) == [(directory / "ca.crt").read_text(), "", ""]


def test_only_a_boolean_turns_off_the_check_of_certificates(path: Path) -> None:
    changed = document()
    cluster = changed["clusters"][1]["cluster"]
    cluster["insecure-skip-tls-verify"] = "false"
    assert complaint(write(path, changed)) == f"{path}: {CLUSTER}.insecure-skip-tls-verify: must be true or false"
    cluster["insecure-skip-tls-verify"] = False
    assert load(Access(str(write(path, changed)))).verify_ssl is True


# ---- the user


def test_data_is_in_no_file_and_gone_with_the_configuration(
    path: Path, directory: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("none")))
    names = {"client-certificate-data": "client.crt", "client-key-data": "client.key"}
    data = {field: base64.b64encode((directory / name).read_bytes()).decode() for field, name in names.items()}
    changed = document(**data)
    authority = (directory / "ca.crt").read_text()
    changed["clusters"][1]["cluster"]["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    one = Access(str(write(path, changed)))
    before = os.listdir("/proc/self/fd")
    one.check()
    assert contents(one) == [authority, *((directory / name).read_text() for name in names.values())]
    assert os.listdir("/proc/self/fd") == before
    assert not os.listdir(tempfile.gettempdir())


def test_empty_data_is_none(path: Path, directory: Path) -> None:
    changed = document()
    changed["clusters"][1]["cluster"]["certificate-authority-data"] = ""
    assert load(Access(str(write(path, changed)))).ssl_ca_cert == str(directory / "ca.crt")


@pytest.mark.parametrize("pass_phrase", [b"secret", b"x"])
def test_a_key_that_is_encrypted(path: Path, directory: Path, pass_phrase: bytes) -> None:
    key = load_pem_private_key((directory / "client.key").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(pass_phrase))
    (directory / "client.key").write_bytes(encrypted)
    write(path, document(**{"client-certificate": "client.crt", "client-key": "client.key"}))
    message = "client-key: is encrypted: there is nobody to ask for its pass phrase"
    assert complaint(path) == f"{path}: {message}"


def test_data_of_a_token_s_file_is_nothing_special(path: Path, directory: Path) -> None:
    (directory / "token").write_text("good")
    one = Access(str(write(path, document(**{"tokenFile": "token", "tokenFile-data": "YQ=="}))))
    one.check()
    assert authorization(one) == "Bearer good"


@pytest.fixture
def url_of_who_hangs_up() -> Iterator[str]:
    def hang_up() -> None:
        with suppress(OSError):
            # until it is shut down
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=hang_up)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# the package's own, of aiohttp
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("expiry", "message"), [(1, "Server disconnected"), (1e99, "out of range")])
def test_a_token_that_cannot_be_renewed(path: Path, url_of_who_hangs_up: str, expiry: float, message: str) -> None:
    claims = base64.urlsafe_b64encode(orjson.dumps({"exp": expiry})).decode().rstrip("=")
    config = {
        "id-token": f"e30.{claims}.e30",
        "refresh-token": "again",
        "client-id": "kpf",
        "client-secret": "secret",
        "idp-issuer-url": url_of_who_hangs_up,
    }
    one = Access(str(write(path, document(**{"auth-provider": {"name": "oidc", "config": config}}))))
    one.check()
    with pytest.raises(AccessError, match=message):
        load(one)


def test_a_client_certificate_that_cannot_be_used(path: Path, directory: Path, ca: trustme.CA) -> None:
    write(path, document(**{"client-certificate": "client.crt", "client-key": "client.key"}))
    one = Access(str(path))
    one.check()
    assert load(one).key_file == str(directory / "client.key")
    key = (directory / "client.key").read_bytes()
    ca.issue_cert(common_name="another").private_key_pem.write_to_path(directory / "client.key")
    problem = f"{path}: client-certificate: cannot be used with client-key"
    assert complaint(path) == f"{problem}: key values mismatch"
    (directory / "client.key").write_bytes(key)
    (directory / "client.crt").write_text("nonsense")
    assert complaint(path).startswith(problem)
    (directory / "client.crt").unlink()
    message = f"{directory}/client.crt cannot be read: {NOT_FOUND}"
    assert complaint(path) == f"{path}: {USER}.client-certificate: {message}"


def test_a_certificate_without_a_key(path: Path) -> None:
    write(path, document(**{"client-certificate": "client.crt"}))
    assert complaint(path).startswith(f"{path}: client-certificate: cannot be used with client-key")


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n", "a\0b", "tok\u00e9n"])
def test_a_token_that_cannot_be_sent(path: Path, directory: Path, content: str) -> None:
    (directory / "token").write_text(content, encoding="utf-8")
    write(path, document(tokenFile="token"))
    assert complaint(path) == f"{path}: {USER}.tokenFile: must be one line of printable text"
    if content:
        write(path, document(token=content.replace("\0", "\x7f")))
        assert complaint(path) == f"{path}: {USER}.token: must be one line of printable text"


def test_a_token_s_file_wins_and_may_end_with_a_newline(path: Path, directory: Path) -> None:
    (directory / "token").write_text("good\n")
    write(path, document(tokenFile="token", token="old"))
    one = Access(str(path))
    one.check()
    assert authorization(one) == "Bearer good"
    (directory / "token").unlink()
    assert complaint(path) == f"{path}: {USER}.tokenFile: {directory}/token cannot be read: {NOT_FOUND}"


def test_the_current_context_s_user_is_the_one(path: Path) -> None:
    changed = document()
    changed["contexts"].append({"name": "nobody", "context": {"cluster": "lab"}})
    assert authorization(Access(str(write(path, changed)))) == "Bearer secret"
    changed["current-context"] = "nobody"
    assert authorization(Access(str(write(path, changed)))) == ""


def test_files_are_named_relative_to_the_kubeconfig(
    path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, document())
    monkeypatch.chdir("/")
    relative = os.path.relpath(path)
    Access(relative).check()
    assert load(Access(relative)).ssl_ca_cert == str(directory / "ca.crt")


def test_another_address_overrides_that_of_the_kubeconfig(path: Path) -> None:
    changed = document()
    del changed["clusters"][1]["cluster"]["server"]
    write(path, changed)
    one = Access(str(path), "https://[2001:db8::1]:6443")
    one.check()
    assert load(one).host == "https://[2001:db8::1]:6443"


def test_the_stamp_changes_with_every_file_that_counts(path: Path, directory: Path) -> None:
    (directory / "token").write_text("one")
    (directory / "unrelated").write_text("one")
    one = Access(str(write(path, document(tokenFile="token"))))
    stamps = [one.stamp()]
    (directory / "unrelated").write_text("two, and longer")
    assert one.stamp() == stamps[0]
    for name in ("token", "ca.crt", "config"):
        file = directory / name
        replacement = directory / "new"
        replacement.write_bytes(file.read_bytes())
        replacement.rename(file)
        stamps.append(one.stamp())
    path.write_text("half")
    stamps.append(one.stamp())
    assert len(set(stamps)) == 5


# ---- a pod's service account


@pytest.fixture
def pod(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a service account, and the environment of a pod."""
    (directory / "token").write_text("pod\n")
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", directory)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    return directory


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize(
    ("host", "port", "server"),
    [
        ("10.96.0.1", "6443", "https://10.96.0.1:6443"),
        ("fd00::1", "443", "https://[fd00::1]:443"),
        ("10.96.0.1", None, "https://10.96.0.1:443"),
    ],
)
def test_a_pod_finds_its_server(monkeypatch: pytest.MonkeyPatch, host: str, port: str | None, server: str) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    if port is None:
        monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    else:
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    one = Access()
    one.check()
    assert load(one).host == server
    assert authorization(one) == "Bearer pod"
    assert load(Access(server="https://192.0.2.1")).host == "https://192.0.2.1"


@pytest.mark.parametrize(("name", "field"), [("token", "tokenFile"), ("ca.crt", "certificate-authority")])
def test_a_pod_without_its_secrets(pod: Path, name: str, field: str) -> None:
    (pod / name).unlink()
    assert complaint() == f"service account.{field}: {pod}/{name} cannot be read: {NOT_FOUND}"


def test_neither_kubeconfig_nor_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert complaint().startswith("no source of Services: neither --manifests nor --kubeconfig")


# ---- a plugin


def plugin(path: Path, script: str, **fields: object) -> Access:
    """An Access whose user asks the script."""
    program = path.parent / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    asked = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", **fields}
    one = Access(str(write(path, document(exec=asked))))
    one.check()
    return one


def answer(status: str, version: str = "v1") -> str:
    head = f'"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/{version}"'
    return f'cat <<END\n{{{head}, "status": {status}}}\nEND'


def test_a_plugin_gives_a_token(path: Path) -> None:
    script = 'test "$REGION $1 $2" = "here get token" || exit 9\n' + answer('{"token": "fresh"}')
    one = plugin(path, script, args=["get", "token"], env=[{"name": "REGION", "value": "here"}])
    assert authorization(one) == "Bearer fresh"


def test_a_plugin_is_told_what_is_wanted(path: Path) -> None:
    one = plugin(path, 'echo "$KUBERNETES_EXEC_INFO" > "$(dirname "$0")/asked"\n' + answer('{"token": "fresh"}'))
    load(one)
    asked = yaml.safe_load((path.parent / "asked").read_text())
    assert (asked["kind"], asked["spec"]) == ("ExecCredential", {"interactive": False})


def test_a_plugin_gives_a_certificate(path: Path, directory: Path) -> None:
    certificate, key = ((directory / name).read_text() for name in ("client.crt", "client.key"))
    given = orjson.dumps({"clientCertificateData": certificate, "clientKeyData": key}).decode()
    one = plugin(path, answer(given.replace("\\", "\\\\")))
    assert contents(one) == [(directory / "ca.crt").read_text(), certificate, key]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'not\nlogged in' >&2; exit 3", "exec: {} failed with status 3: not logged in"),
        ("echo hello", "exec: ./plugin gives no credentials of client.authentication.k8s.io/v1"),
        ("echo 5", "exec: ./plugin gives no credentials of client.authentication.k8s.io/v1"),
        (answer("{}"), "exec: ./plugin gives no credentials of client.authentication.k8s.io/v1"),
        (
            answer('{"token": "fresh"}', "v1beta1"),
            "exec: ./plugin gives no credentials of client.authentication.k8s.io/v1",
        ),
        (answer('{"token": "a b\\\\u0000"}'), "exec: must be one line of printable text"),
        ("kill -9 $$", "exec: {} failed with status -9"),
    ],
)
def test_a_plugin_that_fails(path: Path, script: str, message: str) -> None:
    one = plugin(path, script)
    with pytest.raises(AccessError) as caught:
        load(one)
    assert str(caught.value) == f"{path}: {message.format(path.parent / 'plugin')}"


def test_a_plugin_that_is_not_there(path: Path) -> None:
    one = plugin(path, "", command="no-such-plugin")
    with pytest.raises(AccessError) as caught:
        load(one)
    assert str(caught.value) == f"{path}: exec.command: no-such-plugin cannot be run: {NOT_FOUND}"


def test_a_plugin_that_is_none(path: Path) -> None:
    asked = {"apiVersion": "client.authentication.k8s.io/v1"}
    assert complaint(write(path, document(exec=asked))) == f"{path}: exec.command: is required"


def test_no_plugin(path: Path) -> None:
    one = Access(str(write(path, document(exec=None, token="secret"))))
    one.check()
    assert authorization(one) == "Bearer secret"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": "a\0b"}, "command: must be text without NUL, not 'a\\x00b'"),
        ({"args": ["a", "b\0"]}, "args[1]: must be text without NUL, not 'b\\x00'"),
        (
            {"env": [{"name": "A=B", "value": ""}]},
            "env[0].name: must be the name of a variable, without '=' and NUL, not 'A=B'",
        ),
        ({"env": [{"name": "A", "value": "secret\0"}]}, "env[0].value: must be text without NUL"),
        ({"env": [{"name": "A", "value": 5}]}, "env[0].value: must be text without NUL"),
        ({"env": [{"name": "A"}]}, "env[0].value: is required"),
    ],
)
def test_a_plugin_that_cannot_be_started(path: Path, fields: Document, message: str) -> None:
    asked = {"apiVersion": "client.authentication.k8s.io/v1", "command": "plugin", **fields}
    assert complaint(write(path, document(exec=asked))) == f"{path}: exec.{message}"


@pytest.mark.parametrize(("to", "limit"), [("1", "1024 KiB to its stdout"), ("2", "64 KiB to its stderr")])
def test_a_plugin_that_writes_without_end(path: Path, to: str, limit: str) -> None:
    pids = path.parent / "pids"
    one = plugin(path, f"sleep 1000 & echo $$ $! > {pids}; exec cat /dev/zero >&{to}")
    with pytest.raises(AccessError) as caught:
        load(one)
    assert str(caught.value) == f"{path}: exec: {path.parent}/plugin writes more than {limit}"
    wait_until(lambda: not any(map(_alive, map(int, pids.read_text().split()))))


def test_a_plugin_may_write_up_to_the_limit(path: Path) -> None:
    filling = "head -c 65536 /dev/zero >&2; head -c 1000000 /dev/zero | tr '\\0' ' '\n"
    assert authorization(plugin(path, filling + answer('{"token": "fresh"}'))) == "Bearer fresh"


def test_a_plugin_s_child_that_has_left_its_session_does_not_hold_us(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOAD_LIMIT_S", 1.0)
    pid = path.parent / "pid"
    one = plugin(path, f"setsid sh -c 'echo $$ > {pid}; exec sleep 30' & sleep 1000")
    with pytest.raises(AccessError, match="gives no credentials within"):
        load(one)
    left = int(pid.read_text())
    assert _alive(left)
    os.kill(left, signal.SIGKILL)


def test_a_plugin_that_hangs_is_ended_with_all_it_has_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOAD_LIMIT_S", 0.3)
    pids = path.parent / "pids"
    one = plugin(path, f"sleep 1000 & echo $$ $! > {pids}; wait")
    with pytest.raises(AccessError) as caught:
        load(one)
    assert str(caught.value) == f"{path}: gives no credentials within 0 s"
    wait_until(lambda: not any(map(_alive, map(int, pids.read_text().split()))))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# ---- the command


@pytest.mark.parametrize("command", ["run", "render", "check"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("current-context"), "current-context: is required"),
        (
            lambda one: one["clusters"][1]["cluster"].update({"certificate-authority": "config"}),
            "certificate-authority: holds no certificate that can be used",
        ),
    ],
)
def test_the_command_says_it_in_one_line_and_ends(
    path: Path, capsys: pytest.CaptureFixture[str], command: str, change: Change, message: str
) -> None:
    changed = document()
    change(changed)
    assert cli.main([command, "--kubeconfig", str(write(path, changed))]) == 2
    out, err = capsys.readouterr()
    told = out if command == "check" else err.removeprefix("kpf: ")
    assert told == f"{path}: {message}\n"


def test_nobody_is_told_a_secret_in_clear(path: Path) -> None:
    write(path, document())
    assert authorization(Access(str(path), "https://192.0.2.1")) == "Bearer secret"
    assert authorization(Access(str(path), "http://192.0.2.1")) == ""
