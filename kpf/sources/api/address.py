"""Addresses of the API server, as a kubeconfig or the environment has them: what is wrong with one, in words. Pure."""

from urllib.parse import urlsplit

from kpf.model.names import ObjectName
from kpf.model.snapshot import Snapshot
from kpf.sources.messages import shown

KUBERNETES = ObjectName("default", "kubernetes")
REMEDY = "give a real address of it: --master URL, or one in the kubeconfig"
FROM_THE_ENVIRONMENT = (
    "the API server's address is that of KUBERNETES_SERVICE_HOST. If that is its ClusterIP, which kpf itself has to "
    f"serve, {REMEDY}"
)
_SCHEMES = ("http", "https")


def url_problem(given: object, *, example: str, login: bool = False) -> str:
    """What is wrong with an http or https URL, "" if nothing. `login`: it may hold a user and a password.

    No message holds a password.
    """
    text = given if isinstance(given, str) else ""
    secret = "@" in text
    wanted = f"must be a URL such as {example}" + ("" if secret else f", not {shown(given)}")
    try:
        parts = urlsplit(text)
        usable = parts.port != 0 and _is_plain(text)
    except ValueError:
        return wanted
    if not usable or not parts.scheme or not parts.hostname:
        return wanted
    if parts.scheme not in _SCHEMES:
        return f"{wanted}: {shown(parts.scheme)} is not supported"
    if parts.username is not None and not login:
        return f"{wanted}, without a user and a password"
    host = host_problem(parts.hostname)
    return f"its host {host}" if host else ""


def host_problem(given: object) -> str:
    """What is wrong with a name or an address of a host, "" if nothing."""
    wanted = f"must be the name of a host, not {shown(given)}"
    if not isinstance(given, str) or not given or not _is_plain(given):
        return wanted
    try:
        # TLS does both to the name that it expects in the certificate
        given.encode("idna").decode("idna")
    except UnicodeError:
        return wanted
    return ""


def _is_plain(text: str) -> bool:
    return text.isprintable() and " " not in text


def circular(server: str, snapshot: Snapshot) -> str:
    """A warning if the API server is reached through kpf, which learns all Services from it, "" if not.

    `server`: its URL.
    """
    host = urlsplit(server).hostname or ""
    service = snapshot.services.get(KUBERNETES)
    names = {"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
    is_name = host in names or host.startswith("kubernetes.default.svc.")
    if not is_name and (service is None or host not in map(str, service.cluster_ips)):
        return ""
    return f"the API server is reached by {host}, which kpf itself serves, and after a crash cannot: {REMEDY}"
