"""What changes in table inet kpf, and when, as the kernel tells everybody who listens."""

import asyncio
import threading
import time
from dataclasses import dataclass

from kpf.netlink.attributes import attributes
from kpf.netlink.socket import NETLINK_NETFILTER, Frame, NetlinkSocket, frames
from kpf.nft import schema
from kpf.nft.contents import element_keys
from kpf.nft.kernel import BUFFER_BYTES
from kpf.nft.monitor import NFNLGRP_NFTABLES, SUBSYSTEM

NEW_ELEMENT, DELETED_ELEMENT, NEW_GENERATION = 12, 14, 15
_NFGENMSG_SIZE = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One element that came or went. `time_s`: CLOCK_MONOTONIC when it was heard of."""

    time_s: float
    is_new: bool
    set_name: str
    key: bytes


class TableChanges:
    """Listens, in a thread of its own and in the network namespace it is entered in, until it is left.

    `changes`: in order. `commits_s`: when transactions of any table of the namespace were heard of, CLOCK_MONOTONIC.
    `lost`: the kernel's notifications came faster than they were heard.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.commits_s: list[float] = []
        self.lost = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._listen(),), daemon=True)

    def __enter__(self) -> "TableChanges":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def transactions(self) -> int:
        """So far, of any table of the namespace."""
        return len(self.commits_s)

    async def _listen(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        netlink = NetlinkSocket(NETLINK_NETFILTER, groups=(NFNLGRP_NFTABLES,), buffer_bytes=BUFFER_BYTES)
        netlink.watch(self._take)
        self._ready.set()
        await self._over.wait()
        netlink.close()

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self.lost = True
            return
        now_s = time.monotonic()
        for frame in frames(data):
            if frame.kind >> 8 == SUBSYSTEM:
                self._note(frame, now_s)

    def _note(self, frame: Frame, now_s: float) -> None:
        kind = frame.kind & 0xFF
        if kind == NEW_GENERATION:
            self.commits_s.append(now_s)
        elif kind in (NEW_ELEMENT, DELETED_ELEMENT):
            told = attributes(frame.payload[_NFGENMSG_SIZE:])
            if bytes(told[1]) == schema.TABLE.encode() + b"\0":
                name = bytes(told[2]).rstrip(b"\0").decode()
                self.changes += [Change(now_s, kind == NEW_ELEMENT, name, key) for key in element_keys(told)]
