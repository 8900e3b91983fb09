"""HAProxy in TCP mode, two threads, round robin, nothing logged: as it comes, made to splice, and without the DNAT."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from kpf.lab.clients import Address
from perf.peers.subjects.base import (
    BACKLOG,
    MAX_CONNECTIONS,
    WORKERS,
    Running,
    Site,
    Subject,
    process,
    program,
    say,
)
from perf.peers.subjects.tables import NFT

HAPROXY = program("haproxy", "haproxy")
# the manual's words: every read is by splice where the kernel can, whatever HAProxy would guess
SPLICE = "    option splice-request\n    option splice-response\n"
# the kernel's pipes have 64 KiB unless told otherwise
LARGE_PIPES = "    tune.pipesize 1048576\n"

CONFIGURATION = """\
global
    nbthread {threads}
    maxconn {connections}
{tuning}defaults
    mode tcp
    balance roundrobin
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{options}frontend service
    bind {address}:{port} backlog {backlog}
    default_backend pods
backend pods
{servers}
"""


def configuration(site: Site, port: int, *, tuning: str, options: str) -> str:
    """haproxy.cfg; each connection has two descriptors, and pipes when it splices."""
    return CONFIGURATION.format(
        threads=WORKERS,
        connections=MAX_CONNECTIONS,
        tuning=tuning,
        options=options,
        address=site.address,
        port=port,
        backlog=BACKLOG,
        servers="\n".join(f"    server pod{number} {ip}:{at}" for number, (ip, at) in enumerate(site.pods)),
    )


def haproxy(
    name: str, port: int, *, service: Address | None = None, tuning: str = "", options: str = ""
) -> Callable[[Site], AbstractContextManager[Running]]:
    """HAProxy at a port of the node, reached there or at the Service's address."""

    @contextmanager
    def start(site: Site) -> Iterator[Running]:
        text = configuration(site, port, tuning=tuning, options=options)
        path = site.directory / f"{name}.cfg"
        path.write_text(text, encoding="ascii")
        with process(site, name, ["haproxy", "-db", "-f", str(path)], port) as pids:
            yield Running(service or (site.address, port), pids, say(["haproxy", "-v"]).splitlines()[0], text)

    return start


DEFAULT_PORT, SPLICE_PORT, PLAIN_PORT, PIPES_PORT = 18412, 18413, 18414, 18415
# the way to the proxies: Services' addresses to ports of the node
SERVICES = {("10.96.0.12", 80): DEFAULT_PORT, ("10.96.0.13", 80): SPLICE_PORT, ("10.96.0.15", 80): PIPES_PORT}
DEFAULT_SERVICE, SPLICE_SERVICE, PIPES_SERVICE = SERVICES

DEFAULT = Subject("haproxy", "HAProxy", haproxy("haproxy", DEFAULT_PORT, service=DEFAULT_SERVICE), (HAPROXY, NFT))
SPLICED = Subject(
    "haproxy-splice",
    "HAProxy, splice",
    haproxy("haproxy-splice", SPLICE_PORT, service=SPLICE_SERVICE, options=SPLICE),
    (HAPROXY, NFT),
)
PIPES = Subject(
    "haproxy-pipes",
    "HAProxy, splice, 1 MiB pipes",
    haproxy("haproxy-pipes", PIPES_PORT, service=PIPES_SERVICE, tuning=LARGE_PIPES, options=SPLICE),
    (HAPROXY, NFT),
    ("download", "upload"),
)
PLAIN = Subject("haproxy-no-dnat", "HAProxy, no DNAT", haproxy("haproxy-no-dnat", PLAIN_PORT), (HAPROXY,))
