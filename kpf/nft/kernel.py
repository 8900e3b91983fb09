"""The only writer of the table: transactions to the kernel, and a look at what it has.

A transaction is one message stream of which only the last message before its end is acknowledged; the first refusal of
any message is its failure, and then the kernel has changed nothing. The kernel answers a batch once it is committed or
given up, refusals first (nfnetlink_rcv_batch); before Linux 6.10 it never acknowledges the end itself. A batch without
an end is looked at and given up: a trial, of which nobody is notified.
"""

import errno
import logging

from kpf.model.rules import Rules
from kpf.netlink.socket import NetlinkSocket, RefusedError
from kpf.nft import batch, contents, encode, forwards, schema
from kpf.nft.elements import Entry
from kpf.nft.table import Table, Unknown
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH
from kpf.waiting import waiting_for

log = logging.getLogger("kpf")

BUFFER_BYTES = 64 << 20


# a table of another version of kpf, or of somebody who has changed its chains and sets
OTHER_SHAPE = {errno.EEXIST, errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY, errno.ENOENT}


class TransactionFailedError(OSError):
    """The kernel refused a transaction; what was in force stays so."""


class Kernel:
    """The only writer of table `inet kpf`. Make and use it inside the event loop; making it raises OSError.

    `table`: what is known of what the kernel has.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK.NETFILTER, buffer_bytes=BUFFER_BYTES)
        self.table = Table()
        # None until it has been asked
        self._finds_sockets: bool | None = None

    @property
    def is_busy(self) -> bool:
        """The kernel has a transaction in hand, or waits for another program's."""
        return self._socket.is_in_kernel

    @property
    def port_id(self) -> int:
        """The netlink port that this writer's changes are known by."""
        return self._socket.port_id

    async def replace(self, rules: Rules) -> None:
        """Make the table what it must be, whatever it was, in one transaction. Raises `TransactionFailedError`."""
        self.table.doubt()
        if self._finds_sockets is None:
            self._finds_sockets = await self._can_find_sockets()
        finds = self._finds_sockets
        if isinstance(self.table.state, Unknown):
            present = await self._present(self.table.state.written)
            try:
                with self.table.transaction(rules):
                    await self._commit(batch.refilled_table(rules, present, finds_sockets=finds))
            except TransactionFailedError as error:
                if error.errno not in OTHER_SHAPE:
                    raise
            else:
                return
        with self.table.transaction(rules, anew=True):
            await self._commit(batch.whole_table(rules, finds_sockets=finds))

    async def _can_find_sockets(self) -> bool:
        try:
            await self._transact(batch.trial(), is_trial=True)
        except TransactionFailedError as error:
            if error.errno != errno.ENOENT:
                raise
            log.warning(
                "this kernel's nftables cannot find sockets (CONFIG_NFT_SOCKET): new connections that come while all "
                "of kpf's processes are dead are refused, instead of waiting for the next kpf"
            )
            return False
        return True

    async def _present(self, written: Rules | None) -> batch.Present:
        """The chains and sets that come and go."""
        if written is not None:
            names = frozenset(forwards.names(written.forwards, written.source_ranges))
            sets = frozenset(name for item in written.forwards.items() for name in forwards.sets_of(*item))
            return batch.Present(names, sets, written.forwards)
        static = {*(one.name for one in schema.sets()), *(one.name for one in schema.chains(Rules()))}
        chains = await self.chains()
        sets = await contents.read_names(self._socket, contents.SETS)
        # a map of a rule goes with it
        named = (one for one in sets if not one.startswith("__"))
        return batch.Present(chains - static, frozenset(named) - static)

    async def update(self, old: Rules, new: Rules) -> None:
        """Change what differs in one transaction. Raises `TransactionFailedError`."""
        messages = batch.difference(old, new)
        with self.table.transaction(new):
            if messages:
                await self._commit(messages)

    async def delete(self) -> None:
        """Take the table away, if it is there. Raises `TransactionFailedError`."""
        with self.table.transaction(None):
            await self._commit(encode.no_table())

    async def _commit(self, messages: list[bytes]) -> None:
        await self._transact(messages, is_trial=False)

    async def _transact(self, messages: list[bytes], *, is_trial: bool) -> None:
        *others, last = messages
        stream = [encode.boundary(NFNL_MSG_BATCH.BEGIN), *others, encode.acknowledged(last)]
        ending = len(others) + 1
        if not is_trial:
            stream.append(encode.boundary(NFNL_MSG_BATCH.END))
        size, limit = sum(map(len, stream)), self._socket.send_limit_bytes
        if size > limit:
            raise TransactionFailedError(
                errno.EMSGSIZE,
                f"the transaction has {size} bytes, the send buffer takes {limit}: raise net.core.wmem_max to {size}, "
                "or run with CAP_NET_ADMIN outside of any user namespace",
            )
        try:
            with waiting_for("the kernel to carry out a transaction; it does one at a time, whoever's it is"):
                await self._socket.talk(stream, ending=ending)
        except RefusedError as error:
            raise TransactionFailedError(
                error.errno, f"message {error.index} of {len(stream)} was refused: {error.strerror}"
            ) from error
        except OSError as error:
            raise TransactionFailedError(error.errno, f"the transaction was not sent or answered: {error}") from error

    async def chains(self) -> frozenset[str]:
        """The names of the chains that the kernel has. Raises OSError."""
        return await contents.read_names(self._socket, contents.CHAINS)

    async def contents(self) -> dict[str, dict[bytes, Entry]]:
        """The elements that the kernel has, by set. Raises OSError, FileNotFoundError if there is no such table."""
        try:
            return await contents.read_elements(self._socket)
        except RefusedError as error:
            if error.errno != errno.ENOENT:
                raise
            raise FileNotFoundError(error.errno, f"there is no table inet {schema.TABLE}") from error

    def close(self) -> None:
        """Inside the event loop. The table stays."""
        self._socket.close()
