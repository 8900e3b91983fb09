"""Asks a credential plugin, as of cloud providers, for a token or a client certificate (client.authentication.k8s.io).

The `kubernetes` package can ask one too, but goes on without any credentials when that fails, and never ends one that
hangs.
"""

import asyncio
import base64
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Required

import orjson
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config

# pydantic: typing.TypedDict will do from Python 3.12 on
from typing_extensions import TypedDict

from kpf.sources.api.kubeconfig import Context, checked_token, problem_of
from kpf.sources.messages import short

STDOUT, STDERR = 1, 2
LIMITS_KIB = {STDOUT: 1024, STDERR: 64}


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("must be text without NUL")
    return text


def _variable_name(text: str) -> str:
    if "=" in text or "\0" in text:
        raise ValueError("must be the name of a variable, without '=' and NUL")
    return text


_Argument = Annotated[str, AfterValidator(_argument)]


@with_config(ConfigDict(strict=True))
class _Variable(TypedDict):
    name: Annotated[str, AfterValidator(_variable_name)]
    value: _Argument


@with_config(ConfigDict(strict=True))
class Plugin(TypedDict, total=False):
    """The field `exec` of a user."""

    apiVersion: Required[str]
    command: Required[_Argument]
    args: list[_Argument] | None
    env: list[_Variable] | None


_PLUGIN = TypeAdapter(Plugin)


def plugin_of(context: Context) -> Plugin | None:
    """The plugin that the user's credentials come from, if any. Raises `AccessError`."""
    if "exec" not in context.user:
        return None
    try:
        return _PLUGIN.validate_python(context.user["exec"])
    except ValidationError as error:
        raise problem_of(context, error, within="exec") from None


async def with_credentials(context: Context) -> Context:
    """The context with what its plugin gives, if it has one. Raises `AccessError`. Ends the plugin when cancelled."""
    plugin = plugin_of(context)
    if plugin is None:
        return context
    output = await _output(context, plugin)
    try:
        answer = orjson.loads(output)
        given = answer["status"] if answer["apiVersion"] == plugin["apiVersion"] else {}
        credentials = _credentials(context, given)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        credentials = {}
    if not credentials:
        raise context.problem("exec", f"{plugin['command']} gives no credentials of {plugin['apiVersion']}")
    return replace(context, user={**context.user_alone().user, **credentials})


async def _output(context: Context, plugin: Plugin) -> bytes:
    command = plugin["command"]
    if os.sep in command:
        command = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(context.origin)), command))
    transport, listener = await _start(context, plugin, command)
    try:
        await listener.ended
    finally:
        # with all that it has started
        with suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()
        await listener.exited
    for descriptor, limit_kib in LIMITS_KIB.items():
        if len(listener.written[descriptor]) > limit_kib << 10:
            name = "stdout" if descriptor == STDOUT else "stderr"
            raise context.problem("exec", f"{command} writes more than {limit_kib} KiB to its {name}")
    if status := transport.get_returncode():
        message = f"{command} failed with status {status}"
        reason = short(listener.written[STDERR].decode("utf-8", "replace"))
        raise context.problem("exec", f"{message}: {reason}" if reason else message)
    return bytes(listener.written[STDOUT])


async def _start(context: Context, plugin: Plugin, command: str) -> tuple[asyncio.SubprocessTransport, "_Listener"]:
    request = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {one["name"]: one["value"] for one in plugin.get("env") or ()}
    environment |= {"KUBERNETES_EXEC_INFO": orjson.dumps(request).decode()}
    try:
        return await asyncio.get_running_loop().subprocess_exec(
            _Listener,
            command,
            *(plugin.get("args") or ()),
            env={**os.environ, **environment},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise context.problem("exec.command", f"{command} cannot be run: {error.strerror}") from None


class _Listener(asyncio.SubprocessProtocol):
    """`ended`: the program with all that writes to its pipes, or our patience with what it writes.

    Not asyncio's own streams: their process is awaited with all that has its pipes, and a child in a session of its
    own may keep them for ever.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.written = {descriptor: bytearray() for descriptor in LIMITS_KIB}
        self.ended: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.written[fd] += data
        if len(self.written[fd]) > LIMITS_KIB[fd] << 10:
            self._end()

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _credentials(context: Context, given: Any) -> dict[str, str]:
    """As fields of a user."""
    fields = {}
    if token := given.get("token"):
        fields["token"] = checked_token(context, "exec", token)
    certificate, key = given.get("clientCertificateData"), given.get("clientKeyData")
    if certificate and key:
        fields["client-certificate-data"] = base64.b64encode(certificate.encode()).decode()
        fields["client-key-data"] = base64.b64encode(key.encode()).decode()
    return fields
