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
from typing import Any, Required

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

# pydantic: typing.TypedDict will do from Python 3.12 on
from typing_extensions import TypedDict

from kpf.sources.api.kubeconfig import Context, checked_token, mistake
from kpf.sources.api.refusal import short


class _Variable(TypedDict):
    name: str
    value: str


@with_config(ConfigDict(strict=True))
class Plugin(TypedDict, total=False):
    """The field `exec` of a user."""

    apiVersion: Required[str]
    command: Required[str]
    args: list[str] | None
    env: list[_Variable] | None


_PLUGIN = TypeAdapter(Plugin)


def plugin_of(context: Context) -> Plugin | None:
    """The plugin that the user's credentials come from, if any. Raises `AccessError`."""
    if "exec" not in context.user:
        return None
    try:
        return _PLUGIN.validate_python(context.user["exec"])
    except ValidationError as error:
        raise mistake(context, error, within="exec") from None


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
    request = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {one["name"]: one["value"] for one in plugin.get("env") or ()}
    environment |= {"KUBERNETES_EXEC_INFO": orjson.dumps(request).decode()}
    try:
        process = await asyncio.create_subprocess_exec(
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
    try:
        output, complaints = await process.communicate()
    finally:
        # with all that it has started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        message = f"{command} failed with status {process.returncode}"
        reason = short(complaints.decode("utf-8", "replace"))
        raise context.problem("exec", f"{message}: {reason}" if reason else message)
    return output


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
