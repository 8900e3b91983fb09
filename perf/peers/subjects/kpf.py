"""kpf as everybody runs it: `kpf run`, two workers, a Service from manifests, everything on; and the same once more.

The second measurement of one daemon is the noise floor: what differs between the two has no cause in kpf.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from shlex import join

import kpf
from kpf.lab.daemon import Daemon
from kpf.lab.manifests import Manifests, endpoint_slice, service
from perf.peers.subjects.base import WORKERS, Running, Site, Subject

SERVICE = ("10.96.0.10", 80)


@contextmanager
def start(site: Site) -> Iterator[Running]:
    manifests = Manifests(site.directory / "manifests")
    manifests.write(
        "shop.yaml",
        service("shop", cluster_ips=[SERVICE[0]], ports=[{"port": SERVICE[1]}]),
        endpoint_slice("shop", [ip for ip, _ in site.pods], port=site.pods[0][1]),
    )
    with Daemon(site.node, site.directory, manifests=manifests.directory, workers=WORKERS) as daemon:
        workers = {f"worker {number}": pid for number, pid in enumerate(daemon.worker_pids())}
        how = join(["kpf", *daemon.argv[daemon.argv.index("run") :]])
        yield Running(SERVICE, {"master": daemon.pid, **workers}, f"kpf {kpf.__version__}", how)


KPF = Subject("kpf", "kpf", start)
AGAIN = Subject("kpf-again", "kpf again", start)
