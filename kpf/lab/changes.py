"""What changes in table inet kpf, and when, as the kernel tells everybody who listens."""

import asyncio
import threading
import time
from dataclasses import dataclass

from kpf.netlink.attributes import attributes, text_of
from kpf.netlink.socket import Frame, NetlinkSocket, frames
from kpf.nft import schema
from kpf.nft.contents import element_keys
from kpf.nft.kernel import BUFFER_BYTES
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nf_tables import NFT_MSG, NFTA_SET_ELEM_LIST
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS, NFNLGRP


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
        # batches of notifications
        self._heard = 0
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
        netlink = NetlinkSocket(NETLINK.NETFILTER, groups=(NFNLGRP.NFTABLES,), buffer_bytes=BUFFER_BYTES)
        netlink.watch(self._take)
        self._ready.set()
        await self._over.wait()
        # what the kernel has told by now is heard: until there was a look at the socket that found nothing
        before = -1
        while before < self._heard:
            before = self._heard
            await asyncio.sleep(0.001)
        netlink.close()

    def _take(self, data: bytes | None) -> None:
        self._heard += 1
        if data is None:
            self.lost = True
            return
        now_s = time.monotonic()
        for frame in frames(data):
            if frame.kind >> 8 == NFNL_SUBSYS.NFTABLES:
                self._note(frame, now_s)

    def _note(self, frame: Frame, now_s: float) -> None:
        kind = frame.kind & 0xFF
        if kind == NFT_MSG.NEWGEN:
            self.commits_s.append(now_s)
        elif kind in (NFT_MSG.NEWSETELEM, NFT_MSG.DELSETELEM):
            told = attributes(frame.payload[NFGENMSG.size :])
            if text_of(told[NFTA_SET_ELEM_LIST.TABLE]) == schema.TABLE:
                name, is_new = text_of(told[NFTA_SET_ELEM_LIST.SET]), kind == NFT_MSG.NEWSETELEM
                self.changes += [Change(now_s, is_new, name, key) for key in element_keys(told)]
