"""How to reach the API server, and as whom: from files to the `kubernetes` package's configuration.

Rules: what can never work is found before anything is asked of a server; credentials are read anew whenever one of
their files has changed.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config_from_dict
from kubernetes.aio.config.config_exception import ConfigException

from kpf.sources.api.kubeconfig import (
    CLUSTER_FILES,
    USER_FILES,
    AccessError,
    Context,
    Fields,
    decoded,
    in_cluster,
    one_context,
    read_kubeconfig,
)
from kpf.sources.api.plugin import plugin_of, with_credentials
from kpf.sources.messages import short

# a plugin that asks somebody who does not answer
LOAD_LIMIT_S = 10.0

# what the package raises for a document of an unexpected shape, and for an issuer of tokens that it cannot ask
_UNUSABLE = (
    ConfigException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    OSError,
    aiohttp.ClientError,
)

Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """`kubeconfig`: a file, "" for the service account of the pod that we are in. `server` overrides the address."""

    kubeconfig: str = ""
    server: str = ""

    def check(self) -> None:
        """Raises `AccessError` for what can never work. Asks no server, and nobody for credentials."""
        context = self._context()
        plugin_of(context)
        with ExitStack() as kept:
            asyncio.run(_configured(context.user_alone(), kept))

    def stamp(self) -> Stamp:
        """Changes when a file changes that the credentials are read from."""
        try:
            files = self._context().files
        except AccessError as error:
            return (str(error),)
        return tuple(_identity(path) for path in files)

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[Configuration]:
        """The configuration of now, within `LOAD_LIMIT_S`. Some of the files that it names are gone at the end.

        Raises `AccessError`, also for what may come right: a plugin that fails, a file that is being replaced.
        """
        context = self._context()
        with ExitStack() as kept:
            try:
                async with asyncio.timeout(LOAD_LIMIT_S):
                    configuration = await _configured(await with_credentials(context), kept)
            except TimeoutError:
                raise context.problem("", f"gives no credentials within {LOAD_LIMIT_S:.0f} s") from None
            yield configuration

    def _context(self) -> Context:
        return read_kubeconfig(self.kubeconfig, self.server) if self.kubeconfig else in_cluster(self.server)


async def _configured(context: Context, kept: ExitStack) -> Configuration:
    """`kept`: what is to be closed when the configuration has been used."""
    configuration = Configuration()
    # certificates of kubeadm and others lack what Python >= 3.13 demands, and Go does not
    configuration.disable_strict_ssl_verification = True
    try:
        of_files = replace(
            context,
            cluster=_as_files(context.cluster, CLUSTER_FILES, kept),
            user=_as_files(context.user, USER_FILES, kept),
        )
        await load_kube_config_from_dict(one_context(of_files), client_configuration=configuration)
    except _UNUSABLE as error:
        raise context.problem("", short(str(error)) or type(error).__name__) from error
    _check_tls(configuration, context)
    return configuration


def _as_files(fields: Fields, names: tuple[str, ...], kept: ExitStack) -> Fields:
    """With names of files instead of data: OpenSSL reads nothing else, and the package would leave some in /tmp."""
    changed = dict(fields)
    for name in names:
        if data := changed.pop(f"{name}-data", None):
            file = kept.enter_context(os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "wb"))
            file.write(decoded(data))
            file.flush()
            changed[name] = f"/proc/self/fd/{file.fileno()}"
    return changed


def _check_tls(configuration: Configuration, context: Context) -> None:
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    except OSError:
        raise context.problem("certificate-authority", "holds no certificate that can be used") from None

    def refuse() -> NoReturn:
        # OpenSSL by itself would ask on the terminal
        raise context.problem("client-key", "is encrypted: there is nobody to ask for its pass phrase")

    if configuration.cert_file:
        try:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file, password=refuse)
        except OSError as error:
            reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
            raise context.problem("client-certificate", f"cannot be used with client-key: {reason}") from None


def _identity(path: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return (path, error.errno)
    return path, status.st_ino, status.st_size, status.st_mtime_ns
