"""nginx with the stream module: two workers with listening sockets of their own, round robin, nothing logged."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.peers.subjects.base import (
    BACKLOG,
    MAX_CONNECTIONS,
    WORKERS,
    Needed,
    Running,
    Site,
    Subject,
    find,
    process,
    program,
)
from perf.peers.subjects.tables import NFT

SERVICE = ("10.96.0.14", 80)
PORT = 18420

# a worker of its own user is of no use here: in a user namespace there is nobody but root
CONFIGURATION = """\
{module}user root;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
daemon off;
events {{
    worker_connections {connections};
}}
stream {{
    access_log off;
    upstream pods {{
{servers}
    }}
    server {{
        listen {address}:{port} reuseport backlog={backlog};
        proxy_pass pods;
        proxy_connect_timeout 5s;
        proxy_timeout 1h;
    }}
}}
"""


def build() -> str:
    """What nginx says about how it was built: its version and its configure arguments; empty if it is not there."""
    path = find("nginx")
    return subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stderr if path else ""


def stream_module() -> Path | None:
    """The module's file, where it is not built in."""
    found = re.search(r"--modules-path=(\S+)", build())
    path = Path(found.group(1)) / "ngx_stream_module.so" if found else None
    return path if path and path.exists() else None


def has_stream() -> bool:
    return stream_module() is not None or re.search(r"--with-stream(\s|$)", build()) is not None


def configuration(site: Site, module: Path | None) -> str:
    """nginx.conf; a proxied connection takes two of a worker's."""
    return CONFIGURATION.format(
        module=f"load_module {module};\n" if module else "",
        workers=WORKERS,
        files=2 * MAX_CONNECTIONS + 1000,
        connections=2 * MAX_CONNECTIONS,
        directory=site.directory,
        servers="\n".join(f"        server {ip}:{port};" for ip, port in site.pods),
        address=site.address,
        port=PORT,
        backlog=BACKLOG,
    )


@contextmanager
def start(site: Site) -> Iterator[Running]:
    text = configuration(site, stream_module())
    path = site.directory / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    argv = ["nginx", "-e", "stderr", "-c", str(path)]
    with process(site, "nginx", argv, PORT, children=WORKERS) as pids:
        yield Running(SERVICE, pids, build().splitlines()[0], text)


STREAM = Subject(
    "nginx",
    "nginx stream",
    start,
    (program("nginx", "nginx-light"), Needed("libnginx-mod-stream", has_stream), NFT),
)
