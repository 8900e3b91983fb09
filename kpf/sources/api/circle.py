"""kpf serves every ClusterIP, also that of the API server which it learns them from. Pure."""

from urllib.parse import urlsplit

from kpf.model.names import ObjectName
from kpf.model.snapshot import Snapshot

KUBERNETES = ObjectName("default", "kubernetes")
REMEDY = "give a real address of it: --master URL, or one in the kubeconfig"
FROM_THE_ENVIRONMENT = (
    "the API server's address is that of KUBERNETES_SERVICE_HOST. If that is its ClusterIP, which kpf itself has to "
    f"serve, {REMEDY}"
)


def circular(server: str, snapshot: Snapshot) -> str:
    """A warning if the API server is reached through kpf, "" if not. `server`: its URL."""
    host = urlsplit(server).hostname or ""
    service = snapshot.services.get(KUBERNETES)
    names = {"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
    is_name = host in names or host.startswith("kubernetes.default.svc.")
    if not is_name and (service is None or host not in map(str, service.cluster_ips)):
        return ""
    return f"the API server is reached by {host}, which kpf itself serves, and after a crash cannot: {REMEDY}"
