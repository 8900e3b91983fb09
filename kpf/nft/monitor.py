"""Tells when somebody else has touched the table: an administrator, a firewall that flushes everything.

The kernel notifies about every change with the netlink port of who made it, which is how it can be told to keep our own
to itself: ten thousand elements of ours neither wake us nor fill the buffer, whose overflow would look like a touch.
Nothing but the header and the table's name is looked at, so the traffic of other tables costs next to nothing.
"""

import asyncio
from collections.abc import Callable

from kpf.netlink.attributes import attributes
from kpf.netlink.socket import NetlinkSocket, frames
from kpf.nft import schema
from kpf.nft.kernel import BUFFER_BYTES
from kpf.uapi.netfilter import NFPROTO
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nf_tables import NFT_MSG, NFTA_TABLE
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS, NFNLGRP

# looked up once: each time it takes 70 ns in Python 3.11, and others' tables may have elements by the hundred thousand
_NFTABLES, _NEW_GENERATION, _INET = int(NFNL_SUBSYS.NFTABLES), int(NFT_MSG.NEWGEN), int(NFPROTO.INET)
# one transaction comes as many notifications
SETTLE_S = 0.05
_OURS = schema.TABLE.encode() + b"\0"


class Monitor:
    """`own_port`: the netlink port of our own writer. `on_touched` is called from the event loop, once a burst.

    Making one raises OSError.
    """

    def __init__(self, own_port: int, on_touched: Callable[[], None]) -> None:
        self._on_touched = on_touched
        self._pending: asyncio.TimerHandle | None = None
        self._socket = NetlinkSocket(NETLINK.NETFILTER, groups=(NFNLGRP.NFTABLES,), buffer_bytes=BUFFER_BYTES)
        self._socket.ignore(own_port)
        self._socket.watch(self._take)

    def _take(self, data: bytes | None) -> None:
        # what was lost may have been about our table
        if (data is None or self._is_touched(data)) and self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._pending = None
        self._on_touched()

    def _is_touched(self, data: bytes) -> bool:
        for frame in frames(data):
            if frame.kind >> 8 != _NFTABLES or frame.kind & 0xFF == _NEW_GENERATION or frame.payload[0] != _INET:
                continue
            name = attributes(frame.payload[NFGENMSG.size :]).get(NFTA_TABLE.NAME)
            if name is not None and bytes(name) == _OURS:
                return True
        return False

    def close(self) -> None:
        """Inside the event loop. `on_touched` is not called any more."""
        if self._pending is not None:
            self._pending.cancel()
        self._socket.close()
