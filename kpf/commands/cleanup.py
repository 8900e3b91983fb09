"""`kpf cleanup`: takes away the table and then the addresses that portals were sent to, also after a crash.

Not beside a daemon: that one would put them back.
"""

import asyncio
import sys

from kpf.commands import FAILED, OK
from kpf.master.lock import AlreadyRunningError, DaemonLock
from kpf.netlink.addresses import AddressWatch
from kpf.netlink.own import own_addresses, take_away
from kpf.netlink.socket import NOT_ALLOWED
from kpf.nft.kernel import Kernel

# within which orphans have asked whether another kpf has taken over
DISMISSAL_S = 0.3


def main() -> int:
    """OK, also when there is nothing; FAILED if the kernel refuses, or a daemon runs."""
    try:
        asyncio.run(_delete_alone())
    except AlreadyRunningError as error:
        print(f"kpf cleanup: {error}; it would put everything back: {_how_to_stop(error.pid)}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno in NOT_ALLOWED:
            print("kpf cleanup: it takes root (CAP_NET_ADMIN) to change nftables and addresses", file=sys.stderr)
            return FAILED
        print(f"kpf cleanup: {error.strerror or error}", file=sys.stderr)
        return FAILED
    return OK


def _how_to_stop(pid: int) -> str:
    # SO_PEERCRED knows no number for a process of another pid namespace
    if pid == 0:
        return "stop it first, it runs in a container (delete its pod, or its DaemonSet)"
    return f"stop it first (systemctl stop kpf, or kill {pid})"


async def _delete_alone() -> None:
    lock = DaemonLock()
    try:
        await _delete()
        # workers that a master has left serve nobody any more
        lock.announce_takeover()
        await asyncio.sleep(DISMISSAL_S)
    finally:
        lock.release()


async def _delete() -> None:
    kernel = Kernel()
    try:
        await kernel.delete()
    finally:
        kernel.close()
    for address in own_addresses(await AddressWatch().read()):
        await take_away(address)
