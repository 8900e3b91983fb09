"""Reads a kubeconfig, or a pod's service account, into the one cluster and user that count. Speaks to nobody.

Every mistake is named by file and field; what the fields mean is left to the `kubernetes` package.
"""

import base64
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Required
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

# pydantic: typing.TypedDict will do from Python 3.12 on
from typing_extensions import TypedDict

from kpf.documents import DocumentError, parse_yaml
from kpf.model.snapshot import Problem
from kpf.sources.api.address import host_problem, url_problem
from kpf.sources.messages import message_of

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
MAX_FILE_BYTES = 4 << 20

# files whose content can be given as `...-data` as well
CLUSTER_FILES = ("certificate-authority",)
USER_FILES = ("client-certificate", "client-key")
_TOKEN_FILE = "tokenFile"
_ASKED = ("exec", "auth-provider")

Fields = dict[str, Any]


class AccessError(Exception):
    """There is no way to the API server; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Context:
    """The fields of the current context's cluster and user, file names absolute, and a token instead of its file.

    `origin`: the kubeconfig, "" for a service account; `files`: everything that the credentials depend on.
    """

    origin: str
    cluster: Fields
    user: Fields
    files: tuple[str, ...]

    def problem(self, field: str, message: str) -> AccessError:
        """To be raised. `field`: a place in the kubeconfig, "" for all of it."""
        return AccessError(Problem(self.origin, "", field, message))

    def user_alone(self) -> "Context":
        """Without those who are to be asked for credentials."""
        return replace(self, user={name: one for name, one in self.user.items() if name not in _ASKED})


@with_config(ConfigDict(strict=True))
class _Named(TypedDict, total=False):
    name: Required[str]
    context: Fields | None
    cluster: Fields | None
    user: Fields | None


@with_config(ConfigDict(strict=True))
class _Kubeconfig(TypedDict, total=False):
    current_context: Required[Annotated[str, Field(min_length=1, alias="current-context")]]
    contexts: Required[list[_Named]]
    clusters: Required[list[_Named]]
    users: list[_Named] | None


_SHAPE = TypeAdapter(_Kubeconfig)


def in_cluster(server: str) -> Context:
    """The service account of the pod that we are in; `server`: its address, "" for that of the environment.

    Raises `AccessError` if neither is given, or a file of the account cannot be read.
    """
    host, port = os.environ.get(HOST_VARIABLE), os.environ.get(PORT_VARIABLE, "443")
    if not server and not host:
        message = f"no source of Services: neither --manifests nor --kubeconfig, and {HOST_VARIABLE} is not set"
        raise AccessError(Problem("", "", "", message))
    cluster: Fields = {"server": server or f"https://{f'[{host}]' if ':' in str(host) else host}:{port}"}
    _check_addresses(Context("", cluster, {}, ()), "service account")
    if urlsplit(cluster["server"]).scheme == "http":
        # as of `kubectl proxy`: it has credentials of its own
        return Context("", cluster, {}, ())
    token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
    cluster["certificate-authority"] = str(authority)
    return _complete(Context("", cluster, {_TOKEN_FILE: str(token)}, ()), "service account", "service account")


def read_kubeconfig(path: str, server: str) -> Context:
    """The current context; `server`: its address, "" for the one of the file. Raises `AccessError`."""
    document = _document(path)
    fail = Context(path, {}, {}, ()).problem

    def named(group: str, name: object, asked_by: str, part: str) -> Fields:
        for one in document.get(group) or ():
            if one["name"] == name:
                # as in Go: null is none
                return {field: value for field, value in (one.get(part) or {}).items() if value is not None}
        raise fail(asked_by, f"{name!r:.80} is not among the {group}" if name else "is required")

    current = document["current-context"]
    context = named("contexts", current, "current-context", "context")
    cluster_name, user_name = context.get("cluster"), context.get("user")
    cluster = named("clusters", cluster_name, f"contexts[{current}].context.cluster", "cluster")
    user = named("users", user_name, f"contexts[{current}].context.user", "user") if user_name else {}
    if server:
        cluster["server"] = server
    at_cluster = f"clusters[{cluster_name}].cluster"
    _check_addresses(Context(path, cluster, {}, ()), at_cluster)
    if not isinstance(cluster.get("insecure-skip-tls-verify", False), bool):
        raise fail(f"{at_cluster}.insecure-skip-tls-verify", "must be true or false")
    if urlsplit(cluster["server"]).scheme == "http":
        # as client-go (tools/clientcmd/client_config.go): no credentials in clear
        user = {}
    return _complete(Context(path, cluster, user, (path,)), at_cluster, f"users[{user_name}].user")


def problem_of(context: Context, error: ValidationError, *, within: str = "") -> AccessError:
    """What is wrong first with a value that has the wrong shape. `within`: the field that has it."""
    first = error.errors(include_url=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    if first["type"] == "string_too_short":
        message = "is required"
    elif first["loc"][-1:] == ("value",) and first["type"] != "missing":
        # of a variable: it may be a secret
        message = "must be text without NUL"
    else:
        message = message_of(first)
    return context.problem(f"{within}{''.join(parts)}".removeprefix("."), message)


def _check_addresses(context: Context, at_cluster: str) -> None:
    """Of the server, its proxy, and the name in its certificate. Raises `AccessError`."""
    cluster = context.cluster
    found = {"server": url_problem(cluster.get("server"), example="https://10.0.0.1:6443")}
    # as in client-go: an empty one is none
    if proxy := cluster.get("proxy-url", ""):
        found["proxy-url"] = url_problem(proxy, example="http://10.0.0.2:3128", login=True)
    if name := cluster.get("tls-server-name", ""):
        found["tls-server-name"] = host_problem(name)
    for field, message in found.items():
        if message:
            raise context.problem(f"{at_cluster}.{field}", message)


def _document(path: str) -> Fields:
    fail = Context(path, {}, {}, ()).problem
    try:
        documents = [one for one in parse_yaml(_content(path).decode("utf-8-sig")) if one is not None]
        found = documents[0] if len(documents) == 1 else None
        _SHAPE.validate_python(found)
    except OSError as error:
        raise fail("", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise fail("", "is not UTF-8") from None
    except DocumentError as error:
        raise AccessError(Problem(f"{path}:{error.line}", "", "", error.message)) from None
    except ValidationError as error:
        if not isinstance(found, dict):
            raise fail("", "is no kubeconfig: it must be one mapping of kind Config") from None
        raise problem_of(Context(path, {}, {}, ()), error) from None
    assert isinstance(found, dict)
    return found


def _content(path: str) -> bytes:
    """Raises OSError."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES)
    except ValueError:
        # with NUL, or a letter that the system's encoding has not
        raise OSError(errno.EINVAL, "no file can have that name") from None


def _complete(context: Context, at_cluster: str, at_user: str) -> Context:
    """File names made absolute, and everything readable. Raises `AccessError`."""
    files = [
        *_files(context, context.cluster, CLUSTER_FILES, at_cluster),
        *_files(context, context.user, (*USER_FILES, _TOKEN_FILE), at_user),
    ]
    # an empty one is none, an empty file is a mistake
    if context.user.get("token") or context.user.get(_TOKEN_FILE):
        field = _TOKEN_FILE if context.user.get(_TOKEN_FILE) else "token"
        context.user["token"] = checked_token(context, f"{at_user}.{field}", context.user["token"])
    return replace(context, files=(*context.files, *files))


def checked_token(context: Context, field: str, token: object) -> str:
    """On one line, without spaces around it, printable ASCII: as a header can have it. Raises `AccessError`."""
    text = str(token).strip()
    if not text or not text.isascii() or not text.isprintable():
        raise context.problem(field, "must be one line of printable text")
    return text


def decoded(data: object) -> bytes:
    """From base64. Raises ValueError."""
    # lines are no mistake: Go's decoder passes over their ends
    return base64.b64decode("".join(str(data).splitlines()), validate=True)


def _files(context: Context, fields: Fields, names: tuple[str, ...], described: str) -> Iterator[str]:
    """What is named, as absolute names. Data wins over a file, as in client-go."""
    for name in names:
        data = fields.get(f"{name}-data") if name != _TOKEN_FILE else None
        path, field = fields.get(name), f"{described}.{name}"
        if data:
            try:
                decoded(data)
            except ValueError:
                raise context.problem(f"{field}-data", "is not base64") from None
        elif path:
            absolute = os.path.join(os.path.dirname(os.path.abspath(context.origin)), str(path))
            try:
                content = _content(absolute)
            except OSError as error:
                shown = absolute if absolute.isprintable() else repr(absolute)
                raise context.problem(field, f"{shown} cannot be read: {error.strerror}") from None
            fields[name] = absolute
            if name == _TOKEN_FILE:
                # client-go: a token's file wins over a token
                fields["token"] = content.decode("utf-8", "replace")
            yield absolute


def one_context(context: Context) -> Mapping[str, Any]:
    """A kubeconfig of nothing else, for the client; a token instead of its file."""
    user = {name: value for name, value in context.user.items() if name != _TOKEN_FILE}
    return {
        "current-context": "kpf",
        "contexts": [{"name": "kpf", "context": {"cluster": "kpf", "user": "kpf"}}],
        "clusters": [{"name": "kpf", "cluster": context.cluster}],
        "users": [{"name": "kpf", "user": user}],
    }
