"""How to reach the API server, and as whom: from files to the `kubernetes` package's configuration.

Rules: what can never work is found before anything is asked of a server; credentials are read anew whenever one of
their files has changed.
"""

import asyncio
import os
import ssl
from dataclasses import dataclass

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config_from_dict
from kubernetes.aio.config.config_exception import ConfigException

from kpf.sources.api.kubeconfig import AccessError, Context, in_cluster, one_context, read_kubeconfig
from kpf.sources.api.plugin import plugin_of, with_credentials

# a plugin that asks somebody who does not answer
LOAD_LIMIT_S = 30.0

# what the package raises for a document of an unexpected shape
_UNUSABLE = (ConfigException, ValueError, KeyError, TypeError, AttributeError, OSError)

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
        asyncio.run(_configured(context.user_alone()))

    def stamp(self) -> Stamp:
        """Changes when a file changes that the credentials are read from."""
        try:
            files = self._context().files
        except AccessError as error:
            return (str(error),)
        return tuple(_identity(path) for path in files)

    async def load(self) -> Configuration:
        """Raises `AccessError`, also for what may come right: a plugin that fails, a file that is being replaced."""
        context = self._context()
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                return await _configured(await with_credentials(context))
        except TimeoutError:
            raise context.problem("", f"gives no credentials within {LOAD_LIMIT_S:.0f} s") from None

    def _context(self) -> Context:
        return read_kubeconfig(self.kubeconfig, self.server) if self.kubeconfig else in_cluster(self.server)


async def _configured(context: Context) -> Configuration:
    configuration = Configuration()
    # certificates of kubeadm and others lack what Python >= 3.13 demands, and Go does not
    configuration.disable_strict_ssl_verification = True
    try:
        await load_kube_config_from_dict(one_context(context), client_configuration=configuration)
    except _UNUSABLE as error:
        raise context.problem("", str(error)) from error
    _check_tls(configuration, context)
    return configuration


def _check_tls(configuration: Configuration, context: Context) -> None:
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    except (ssl.SSLError, OSError):
        raise context.problem("certificate-authority", "holds no certificate that can be used") from None
    if configuration.cert_file:
        try:
            tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        except (ssl.SSLError, OSError) as error:
            reason = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
            raise context.problem("client-certificate", f"cannot be used with client-key: {reason}") from None


def _identity(path: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return (path, error.errno)
    return path, status.st_ino, status.st_size, status.st_mtime_ns
