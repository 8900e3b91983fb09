"""What each field of the configuration is for: the one place where that is told to people.

What the model knows (names, defaults, values, flags, what only a restart changes) is not repeated here.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Setting(NamedTuple):
    """`default`: what stands for it, where the model's own is none. `example`: a value for the example file."""

    text: str
    default: str = ""
    example: str = ""


class Group(NamedTuple):
    """Fields that are read together, by their paths: "logging.level"."""

    title: str
    settings: Mapping[str, Setting]


GROUPS = (
    Group(
        "Source",
        {
            "manifests": Setting(
                "Where Services and EndpointSlices come from: the files in this directory, whose changes are followed.",
                example="/etc/kpf/manifests",
            ),
            "clientConnection.kubeconfig": Setting(
                "Or, instead of them, the API server of this kubeconfig; not by its ClusterIP, which kpf serves "
                "itself. With neither, the service account of the pod that kpf runs in.",
                example="/etc/kpf/kubeconfig",
            ),
            "hostnameOverride": Setting(
                "This node's name, as in the nodeName of endpoints.",
                default="the host name",
                example="node-1",
            ),
        },
    ),
    Group(
        "The node",
        {
            "proxyAddress": Setting(
                "What is proxied is sent to an address of kpf's own on lo, one a family, which stays when the node's "
                "addresses change. If somebody on the node has it: to another one of its /24 or /64.",
                default="169.254.77.1,fd77:6b70:66::1",
                example="169.254.77.1,fd77:6b70:66::1",
            ),
            "bindAddress": Setting(
                "Or to one of the node's, where proxies listen then: if it goes, its connections are reset. With "
                "0.0.0.0 and :: they listen everywhere, and the primary address stands for the node.",
                example="192.0.2.10,2001:db8::10",
            ),
            "portRange": Setting(
                "The ports that kpf listens on. Keep them clear of net.ipv4.ip_local_port_range and of the node ports.",
            ),
            "nodePortAddresses": Setting(
                "On which of the node's addresses NodePorts answer: CIDRs, or primary. A list that names one family "
                "leaves the other at all.",
                default="all local addresses",
                example="[192.0.2.0/24]",
            ),
            "detectLocalMode": Setting(
                "How this node's pods are known, as sources of connections: by the podCIDRs of its Node (NodeCIDR), by "
                "clusterCIDR, or by the interface that they come from.",
                default="NodeCIDR; ClusterCIDR if there is a clusterCIDR",
                example="NodeCIDR",
            ),
            "clusterCIDR": Setting(
                "The pods' networks, one a family at most, for detectLocalMode ClusterCIDR.",
                example="10.244.0.0/16",
            ),
            "detectLocal.bridgeInterface": Setting(
                "The bridge that pods come from, for detectLocalMode BridgeInterface.",
                example="cni0",
            ),
            "detectLocal.interfaceNamePrefix": Setting(
                "How the names of the interfaces begin that pods come from, for detectLocalMode InterfaceNamePrefix.",
                example="cali",
            ),
            "serviceCIDRs": Setting(
                "What to drop where no Service has the address: the cluster's service ranges, beside its ServiceCIDR "
                "objects.",
                example="[10.96.0.0/12]",
            ),
        },
    ),
    Group(
        "Forwarding",
        {
            "forwarding": Setting(
                "Who carries TCP: the workers (proxied) or the kernel (direct); auto: the workers, but for connections "
                "from elsewhere under externalTrafficPolicy Local. The annotation kpf.io/forwarding of a Service wins.",
            ),
            "allowExternalIPs": Setting(
                "false: externalIPs of Services are ignored (the remedy for CVE-2020-8554).",
            ),
            "masqueradeAll": Setting(
                "true: what the kernel forwards to a ClusterIP gets the node's address as its source. For networks "
                "where replies would bypass the node, as bridges without br_netfilter.",
            ),
        },
    ),
    Group(
        "Processes",
        {
            "workers": Setting(
                "Worker processes.",
                default="as many as CPUs that may be used",
                example="4",
            ),
            "workerUser": Setting(
                "The uid and gid that workers become, and that nobody else on the node may have: their dials are known "
                "by it, so that an endpoint may be dialled whose address and port is a portal. The default is in no "
                "registry of ids.",
            ),
            "controlSocket": Setting("Where `kpf status` asks. Root's, mode 0600."),
            "drainTimeout": Setting(
                "How long open connections may go on after SIGTERM: seconds, or a duration such as 1m30s. kpf asks "
                "systemd for as much time.",
            ),
            "onExit": Setting(
                "At SIGTERM. drop: new connections are dropped, open ones have drainTimeout, then everything is taken "
                "away. leave: rules and workers stay, and serve on, for the next kpf to take over. The unit's restart "
                "leaves, and its stop does as is said here.",
            ),
            "handoverSocket": Setting(
                "Where the next kpf asks for all that this one has. Mode 0600.",
                default="handover.sock beside controlSocket",
                example="/run/kpf/handover.sock",
            ),
            "handoverTimeout": Setting(
                "How long open connections may go on once another kpf has taken over, and workers without a master: "
                "seconds, or a duration.",
            ),
        },
    ),
    Group(
        "What it tells",
        {
            "healthzBindAddress": Setting('GET /healthz and /livez; "" switches them off.'),
            "metricsBindAddress": Setting(
                'GET /metrics, /healthz and /proxyMode; "" switches them off. Whoever reaches it may read the names '
                "and addresses of Services.",
            ),
            "metrics.perEndpoint": Setting("false: no metrics of single endpoints."),
            "metrics.maxSeries": Setting(
                "How many series of Services there may be in one scrape; kpf_metrics_series_left_out says how many are "
                "left out.",
            ),
            "logging.level": Setting("The lowest level that is logged, to standard error."),
            "logging.format": Setting("How a line of the log looks."),
        },
    ),
)
