"""The writer's talk with the kernel: which message is answered, and what a transaction that cannot be sent leaves."""

import asyncio
import errno
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from kpf.commands import cleanup
from kpf.lab.tables import list_tables
from kpf.model.rules import Portal, Rules, Verdict
from kpf.netlink.socket import Frame, NetlinkSocket, frames
from kpf.nft import kernel, schema
from kpf.nft.kernel import Kernel, TransactionFailedError
from kpf.uapi.netlink import NLM_F
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH
from tests.test_nft_contract import FULL, expected, seen
from tests.values import TCP


def test_only_the_last_message_before_the_end_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 6.10 never acknowledges the end of a batch (commit bf2ac490d28c): waiting for that waits in vain."""
    streams: list[list[Frame]] = []
    talk = NetlinkSocket.talk

    async def listen(self: NetlinkSocket, messages: Sequence[bytes], *, ending: int = -1) -> list[Frame]:
        if frames_of := [frame for message in messages for frame in frames(message) if len(messages) > 1]:
            streams.append(frames_of)
        return await talk(self, messages, ending=ending)

    async def scene() -> None:
        writer = Kernel()
        await writer.delete()
        await writer.replace(FULL)
        await writer.update(FULL, Rules())
        await writer.delete()
        writer.close()

    monkeypatch.setattr(NetlinkSocket, "talk", listen)
    asyncio.run(scene())
    ended = [stream[-1].kind == NFNL_MSG_BATCH.END for stream in streams]
    assert (ended.count(True), ended.count(False)) == (4, 1), "one is the trial"
    for stream, is_ended in zip(streams, ended, strict=True):
        last = len(stream) - 1 - is_ended
        assert [number for number, frame in enumerate(stream) if frame.flags & NLM_F.ACK] == [last]


def test_a_trial_leaves_nothing() -> None:
    async def scene() -> None:
        writer = Kernel()
        await writer.delete()
        assert await writer._can_find_sockets()
        writer.close()

    asyncio.run(scene())
    assert list_tables() == []


def test_a_transaction_that_is_too_big_to_send_says_so_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BUFFER_BYTES", 1 << 16)
    many = Rules(portals={Portal(IPv4Address(0x0A600000 + n), TCP, 80): Verdict.DROP for n in range(10_000)})

    async def scene() -> None:
        writer = Kernel()
        await writer.replace(FULL)
        with pytest.raises(TransactionFailedError, match="wmem_max") as failure:
            await writer.replace(many)
        assert failure.value.errno == errno.EMSGSIZE
        assert await seen(writer) == expected(FULL)
        await writer.delete()
        writer.close()

    asyncio.run(scene())


def test_a_refusal_names_the_message_and_the_reason() -> None:
    missing = Portal(IPv4Address("10.9.9.9"), TCP, 80)

    async def scene() -> None:
        writer = Kernel()
        await writer.replace(FULL)
        with pytest.raises(TransactionFailedError, match=r"message 1 of 3 was refused: No such file") as failure:
            await writer.update(Rules(portals={missing: 20001}), Rules())
        assert failure.value.errno == errno.ENOENT
        await writer.delete()
        writer.close()

    asyncio.run(scene())


def test_cleanup_takes_the_table_away_and_is_content_without_one() -> None:
    async def scene() -> None:
        writer = Kernel()
        await writer.replace(FULL)
        writer.close()

    asyncio.run(scene())
    assert list_tables() == [schema.TABLE]
    assert cleanup.main() == 0
    assert list_tables() == []
    assert cleanup.main() == 0


def test_cleanup_says_what_right_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(_: Kernel) -> None:
        raise TransactionFailedError(errno.EPERM, "message 0 of 4 was refused")

    monkeypatch.setattr(Kernel, "delete", refuse)
    assert cleanup.main() == 1
    assert "CAP_NET_ADMIN" in capsys.readouterr().err
