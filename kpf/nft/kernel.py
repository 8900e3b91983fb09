"""The only writer of the table: transactions to the kernel, and a look at what it has.

A transaction is one message stream of which only the last message before its end is acknowledged; the first refusal of
any message is its failure, and then the kernel has changed nothing. The kernel answers a batch once it is committed or
given up, refusals first (nfnetlink_rcv_batch); before Linux 6.10 it never acknowledges the end itself.
"""

import errno

from kpf.model.rules import Rules
from kpf.netlink.socket import NetlinkSocket, RefusedError
from kpf.nft import batch, contents, encode, forwards, schema
from kpf.nft.values import Value
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH
from kpf.waiting import waiting_for

BUFFER_BYTES = 64 << 20


# a table of another version of kpf, or of somebody who has changed its chains and sets
OTHER_SHAPE = {errno.EEXIST, errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY, errno.ENOENT}


class TransactionFailedError(OSError):
    """The kernel refused a transaction; what was in force stays so."""


class Kernel:
    """Make and use it inside the event loop."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK.NETFILTER, buffer_bytes=BUFFER_BYTES)
        self._is_foreign = False
        # what is certain to be there; nothing is, after a start or a failure
        self._written: Rules | None = None

    @property
    def port_id(self) -> int:
        """The netlink port that this writer's changes are known by."""
        return self._socket.port_id

    async def replace(self, rules: Rules) -> None:
        """Make the table what it must be, whatever it was, in one transaction. Raises `TransactionFailedError`."""
        if not self._is_foreign:
            try:
                await self._commit(batch.refilled_table(rules, await self._present()), rules)
            except TransactionFailedError as error:
                if error.errno not in OTHER_SHAPE:
                    raise
            else:
                return
        # whoever touches it from now on is told of again
        was_foreign, self._is_foreign = self._is_foreign, False
        try:
            await self._commit(batch.whole_table(rules), rules)
        except BaseException:
            self._is_foreign = self._is_foreign or was_foreign
            raise

    async def _present(self) -> batch.Present:
        """The chains and sets that come and go."""
        if self._written is not None:
            names = frozenset(forwards.names(self._written.forwards, self._written.guards))
            sets = frozenset(name for item in self._written.forwards.items() for name in forwards.sets_of(*item))
            return batch.Present(names, sets, self._written.forwards)
        static = {*(one.name for one in schema.sets()), *(one.name for one in schema.chains(Rules()))}
        chains = await contents.read_names(self._socket, contents.CHAINS)
        sets = await contents.read_names(self._socket, contents.SETS)
        # a map of a rule goes with it
        named = (one for one in sets if not one.startswith("__"))
        return batch.Present(chains - static, frozenset(named) - static)

    def distrust(self) -> None:
        """Somebody else has touched the table: the next `replace` takes everything away that is not ours."""
        self._is_foreign = True

    async def update(self, old: Rules, new: Rules) -> None:
        """Change what differs in one transaction. Raises `TransactionFailedError`."""
        messages = batch.difference(old, new)
        if messages:
            await self._commit(messages, new)

    async def delete(self) -> None:
        """Take the table away, if it is there. Raises `TransactionFailedError`."""
        await self._commit(encode.no_table())

    async def _commit(self, messages: list[bytes], new: Rules | None = None) -> None:
        """`new`: what is in the table afterwards, None if that is not known."""
        self._written = None
        *others, last = messages
        stream = [
            encode.boundary(NFNL_MSG_BATCH.BEGIN),
            *others,
            encode.acknowledged(last),
            encode.boundary(NFNL_MSG_BATCH.END),
        ]
        size, limit = sum(map(len, stream)), self._socket.send_limit_bytes
        if size > limit:
            raise TransactionFailedError(
                errno.EMSGSIZE,
                f"the transaction has {size} bytes, the send buffer takes {limit}: raise net.core.wmem_max to {size}, "
                "or run with CAP_NET_ADMIN outside of any user namespace",
            )
        try:
            with waiting_for("the kernel to carry out a transaction; it does one at a time, whoever's it is"):
                await self._socket.talk(stream, ending=-2)
        except RefusedError as error:
            raise TransactionFailedError(
                error.errno, f"message {error.index} of {len(stream)} was refused: {error.strerror}"
            ) from error
        except OSError as error:
            raise TransactionFailedError(error.errno, f"the transaction was not sent or answered: {error}") from error
        self._written = new

    async def chains(self) -> frozenset[str]:
        """The names of the chains that the kernel has. Raises OSError."""
        return await contents.read_names(self._socket, contents.CHAINS)

    async def contents(self) -> dict[str, dict[bytes, Value]]:
        """The elements that the kernel has, by set. Raises FileNotFoundError if there is no such table."""
        try:
            return await contents.read_elements(self._socket)
        except RefusedError as error:
            if error.errno != errno.ENOENT:
                raise
            raise FileNotFoundError(error.errno, f"there is no table inet {schema.TABLE}") from error

    def close(self) -> None:
        self._socket.close()
