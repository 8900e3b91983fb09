"""All subjects, in the order of the tables, and the table that leads to them."""

from collections.abc import Sequence

from kpf.lab.clients import Address
from perf.peers.subjects import haproxy, kpf, nginx, tables
from perf.peers.subjects.base import Running, Site, Subject, SubjectFailedError

__all__ = ["SUBJECTS", "Running", "Site", "Subject", "SubjectFailedError", "peers_table"]

SUBJECTS = (
    kpf.KPF,
    haproxy.DEFAULT,
    haproxy.SPLICED,
    haproxy.PIPES,
    kpf.AGAIN,
    haproxy.PLAIN,
    nginx.STREAM,
    tables.DNAT,
    tables.DIRECT,
)


def peers_table(address: str, pods: Sequence[Address]) -> str:
    """The table `inet peers` for the proxies' ports at this address of the node."""
    ports = {**haproxy.SERVICES, nginx.SERVICE: nginx.PORT}
    return tables.table(pods, {service: (address, port) for service, port in ports.items()})
