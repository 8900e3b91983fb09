"""A long wire: a host whose frames take a time of one's choice, or are lost. There need be no netem in the kernel.

The host is joined to the node through a namespace between them without any address, where a thread of ours takes the
frames off one veth device and puts them onto the other one when their time has come.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_interface

from pyroute2 import IPRoute

from kpf.lab import namespace
from kpf.lab.hosts import add_addresses, set_up
from kpf.lab.machine import Machine
from kpf.uapi.internal import SOL
from kpf.uapi.sockets import ETH_P, PACKET

FRAME_LIMIT = 1 << 17


class DistantHost(Machine):
    """A machine at the end of a long wire: `link` here, `eth0` there, `ours` and `theirs` the ends' addresses.

    `delay_s`: from there to here, so of every round trip, neighbour discovery included. `is_away`: frames of both
    directions are lost. Raises `NamespaceRefusedError`.
    """

    def __init__(self, link: str, *, ours: Sequence[str], theirs: Sequence[str], delay_s: float) -> None:
        self.link, self.delay_s, self.is_away = link, delay_s, False
        self._descriptor, self._between = namespace.create(), namespace.create()
        super().__init__(self._descriptor)
        with IPRoute() as ip:
            ip.link("add", ifname=link, kind="veth", peer={"ifname": "near", "net_ns_fd": self._between})
            set_up(ip, link)
            add_addresses(ip, link, ours)
        with self.inside(), IPRoute() as ip:
            ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "far", "net_ns_fd": self._between})
            set_up(ip, "eth0")
            add_addresses(ip, "eth0", theirs)
            for address in ours:
                gateway = ip_interface(address).ip
                ip.route("add", dst="::/0" if gateway.version == 6 else "0.0.0.0/0", gateway=str(gateway))
        with namespace.inside(self._between), IPRoute() as ip:
            for name in ("near", "far"):
                set_up(ip, name)
            self._near, self._far = _tap("near"), _tap("far")
        self._stop, stop = socket.socketpair()
        self._thread = threading.Thread(target=self._carry, args=(stop,), daemon=True)
        self._thread.start()

    def _carry(self, stop: socket.socket) -> None:
        """Both ways, until told to stop."""
        poll = select.poll()
        for one in (stop, self._near, self._far):
            poll.register(one, select.POLLIN)
        late: deque[tuple[float, bytes]] = deque()
        while True:
            wait_ms = max(late[0][0] - time.monotonic(), 0) * 1000 if late else None
            ready = {descriptor for descriptor, _ in poll.poll(wait_ms)}
            if stop.fileno() in ready:
                stop.close()
                return
            if self._near.fileno() in ready:
                self._put(self._far, self._near.recv(FRAME_LIMIT))
            if self._far.fileno() in ready:
                late.append((time.monotonic() + self.delay_s, self._far.recv(FRAME_LIMIT)))
            while late and late[0][0] <= time.monotonic():
                self._put(self._near, late.popleft()[1])

    def _put(self, tap: socket.socket, frame: bytes) -> None:
        # a full queue loses frames, as queues do
        with suppress(BlockingIOError, OSError):
            if not self.is_away:
                tap.send(frame)

    def close(self) -> None:
        """Unplug the host. Its namespace ends with its last process."""
        self._stop.send(b"x")
        self._thread.join(5)
        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=self.link):
                ip.link("del", index=index)
        for one in (self._stop, self._near, self._far):
            one.close()
        for descriptor in (self._descriptor, self._between):
            os.close(descriptor)

    def __enter__(self) -> "DistantHost":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tap(name: str) -> socket.socket:
    """All frames that come out of this device, with what the kernel says of their checksums and sizes."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(SOL.PACKET, PACKET.VNET_HDR, 1)
    tap.setsockopt(SOL.PACKET, PACKET.IGNORE_OUTGOING, 1)
    tap.bind((name, ETH_P.ALL))
    return tap
