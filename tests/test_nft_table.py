"""The table in the real kernel: what `nft` makes of it, and who else touches it."""

import asyncio
import ipaddress
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable

import pytest

from kpf.lab.changes import TableChanges
from kpf.model.rules import Portal, Rules, Verdict
from kpf.netlink.attributes import string
from kpf.netlink.socket import RECEIVE_BYTES, acknowledgement, frames
from kpf.nft import batch, encode
from kpf.nft import monitor as monitor_module
from kpf.nft.kernel import BUFFER_BYTES, Kernel
from kpf.nft.monitor import Monitor
from kpf.nft.text import render
from kpf.uapi.netlink import NETLINK
from kpf.uapi.nf_tables import NFTA_TABLE
from kpf.uapi.nfnetlink import NFNL_MSG_BATCH
from kpf.uapi.sockets import SO
from tests.test_nft_contract import FULL
from tests.values import TCP

needs_nft = pytest.mark.skipif(not shutil.which("nft"), reason="nft (optional peer) is not installed")


def play(scene: Callable[[Kernel], Awaitable[None]]) -> None:
    async def run() -> None:
        kernel = Kernel()
        try:
            await scene(kernel)
            await kernel.delete()
        finally:
            kernel.close()

    asyncio.run(run())


def nft(*arguments: str, text: str = "") -> str:
    result = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=20)
    assert result.returncode == 0, result.stderr
    return result.stdout


def listing() -> list[str]:
    """What nft lists, without what does not tell the same apart: order, and how a line is written."""
    text = nft("-n", "-y", "list", "table", "inet", "kpf")
    elements = re.compile(r"elements = \{(.*?)\}", re.DOTALL)
    text = elements.sub(lambda found: " , ".join(sorted(one.strip() for one in found[1].split(","))), text)
    text = text.replace("meta nfproto ipv4 ", "").replace("meta nfproto ipv6 ", "")
    return [line for block in sorted(text.split("\n\n")) for line in block.strip("\n}").splitlines()]


@needs_nft
def test_text_and_netlink_make_the_same_table() -> None:
    async def scene(kernel: Kernel) -> None:
        await kernel.replace(FULL)
        by_netlink = listing()
        nft("-f", "-", text=render(FULL, ["a comment"]))
        assert listing() == by_netlink
        assert any("10.96.0.1 . 80" in line for line in by_netlink)

    play(scene)


@needs_nft
def test_nft_says_whose_portal_it_is_and_takes_that_back_as_it_is() -> None:
    """The longest names that there may be make 143 characters, of which nft itself takes 128."""
    first, second = (Portal(ipaddress.ip_address(one), TCP, 80) for one in ("10.96.0.1", "10.96.0.2"))
    longest = f"{'n' * 63}/{'s' * 63}:{'p' * 15}"
    rules = Rules(portals={first: 20001, second: Verdict.REFUSE}, comments={first: "shop/web:http", second: longest})

    async def scene(kernel: Kernel) -> None:
        await kernel.replace(rules)
        told = nft("list", "table", "inet", "kpf")
        assert '10.96.0.1 . 80 comment "shop/web:http" : 20001' in told
        assert f'10.96.0.2 . tcp . 80 comment "{longest[:125]}..." : goto' in told
        nft("-f", "-", text=f"delete table inet kpf\n{told}")
        assert nft("list", "table", "inet", "kpf") == told

    play(scene)


@needs_nft
def test_who_gets_a_portal_of_the_same_kind_is_said_too() -> None:
    portal = Portal(ipaddress.ip_address("10.96.0.1"), TCP, 80)
    before, after = (Rules(portals={portal: Verdict.REFUSE}, comments={portal: one}) for one in ("shop/a", "shop/b"))

    async def scene(kernel: Kernel) -> None:
        await kernel.replace(before)
        await kernel.update(before, after)
        assert 'comment "shop/b"' in nft("list", "map", "inet", "kpf", "verdict-ip4")

    play(scene)


def test_who_listens_to_changes_hears_what_was_told_before_he_left(monkeypatch: pytest.MonkeyPatch) -> None:
    take = TableChanges._take

    def slowly(listener: TableChanges, data: bytes | None) -> None:
        time.sleep(0.02)
        take(listener, data)

    monkeypatch.setattr(TableChanges, "_take", slowly)

    async def scene(kernel: Kernel) -> None:
        with TableChanges() as table:
            for _ in range(5):
                await kernel.replace(Rules())
        assert table.transactions == 5

    play(scene)


def test_a_comment_stays_a_comment() -> None:
    text = render(Rules(), ["one\ntable inet other", "", "two"])
    assert text.splitlines()[:5] == ["# one", "# table inet other", "#", "# two", "table inet kpf"]


@needs_nft
def test_the_text_is_valid_without_anything_in_it() -> None:
    nft("-c", "-f", "-", text=render(Rules()))


def many(count: int) -> Rules:
    return Rules(
        portals={Portal(ipaddress.IPv4Address(0x0A600000 + n), TCP, 80): 20000 + n % 1000 for n in range(count)}
    )


def test_ten_thousand_portals_are_one_transaction() -> None:
    async def scene(kernel: Kernel) -> None:
        rules = many(10_000)
        await kernel.replace(rules)
        assert len((await kernel.contents())["proxy-ip4"]) == 10_000
        changed = Rules(portals={**rules.portals, Portal(ipaddress.IPv4Address("10.200.0.1"), TCP, 80): Verdict.DROP})
        assert len(batch.difference(rules, changed)) == 1
        assert sum(map(len, batch.difference(rules, changed))) < 200
        await kernel.update(rules, changed)
        await kernel.update(changed, Rules())
        left = await kernel.contents()
        assert not left["proxy-ip4"]
        assert not left["verdict-ip4"]

    play(scene)


def test_somebody_who_touches_the_table_is_noticed_and_we_ourselves_are_not() -> None:
    async def scene(kernel: Kernel) -> None:
        touched: list[float] = []
        monitor = Monitor(kernel.port_id, lambda: touched.append(time.monotonic()))
        other = Kernel()
        try:
            await kernel.replace(many(10_000))
            await kernel.update(many(10_000), Rules())
            await asyncio.sleep(0.2)
            assert touched == []
            await other.update(Rules(), many(1))
            await asyncio.sleep(0.2)
            assert len(touched) == 1
            touched.clear()
            await other.delete()
            await asyncio.sleep(0.2)
            assert len(touched) == 1
        finally:
            monitor.close()
            other.close()

    play(scene)


def commit_at_once(*messages: bytes) -> None:
    """Somebody else's transaction, while the loop does nothing."""
    *others, last = messages
    stream = [
        encode.boundary(NFNL_MSG_BATCH.BEGIN),
        *others,
        encode.acknowledged(last),
        encode.boundary(NFNL_MSG_BATCH.END),
    ]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK.NETFILTER) as other:
        other.settimeout(10.0)
        other.setsockopt(socket.SOL_SOCKET, SO.SNDBUFFORCE, BUFFER_BYTES)
        other.send(b"".join(stream))
        assert acknowledgement(next(frames(other.recv(RECEIVE_BYTES)))).errno == 0


def test_what_overflows_may_have_been_a_touch_but_what_we_do_never_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "BUFFER_BYTES", 1 << 14)

    async def scene(kernel: Kernel) -> None:
        touched: list[float] = []
        monitor = Monitor(kernel.port_id, lambda: touched.append(time.monotonic()))
        try:
            await kernel.replace(many(10_000))
            await asyncio.sleep(0.2)
            assert touched == []
            commit_at_once(*batch.difference(many(10_000), Rules()))
            await asyncio.sleep(0.2)
            assert len(touched) == 1
        finally:
            monitor.close()

    play(scene)


def test_what_is_lost_may_have_been_a_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is about another table: only the loss itself tells."""
    monkeypatch.setattr(monitor_module, "BUFFER_BYTES", 1 << 14)
    with monkeypatch.context() as patch:
        patch.setattr(encode, "_TABLE", string(NFTA_TABLE.NAME, "other"))
        flood = [encode.new_table(), *(encode.new_chain(f"chain-{number}") for number in range(1000))]
        end = encode.no_table()

    async def scene(kernel: Kernel) -> None:
        await kernel.replace(Rules())
        touched: list[float] = []
        monitor = Monitor(kernel.port_id, lambda: touched.append(time.monotonic()))
        try:
            commit_at_once(*flood)
            commit_at_once(encode.new_chain("intruder"))
            assert touched == []
            await asyncio.sleep(0.2)
            assert len(touched) == 1
        finally:
            monitor.close()
            commit_at_once(*end)

    play(scene)


@needs_nft
def test_other_tables_are_none_of_our_business() -> None:
    async def scene(kernel: Kernel) -> None:
        touched: list[float] = []
        monitor = Monitor(kernel.port_id, lambda: touched.append(time.monotonic()))
        await kernel.replace(FULL)
        nft("add", "table", "inet", "kpf2")
        nft("add", "chain", "inet", "kpf2", "kpf")
        nft("delete", "table", "inet", "kpf2")
        nft("add", "table", "ip", "kpf")
        nft("delete", "table", "ip", "kpf")
        await asyncio.sleep(0.1)
        monitor.close()
        assert touched == []

    play(scene)
