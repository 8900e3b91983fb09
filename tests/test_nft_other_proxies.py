"""What kube-proxy has in the kernel beside kpf: what is found, and what is said of it."""

import asyncio
import errno
import logging
from collections.abc import Iterator

import pytest
from pyroute2.nftables.main import NFTables

from kpf.netlink.socket import NetlinkSocket, Refusal, RefusedError
from kpf.nft import other_proxies
from kpf.nft.other_proxies import ChainName, Found, words

NFPROTO = {"ip": 2, "ip6": 10}
NFTABLES = Found(ChainName("ip", "kube-proxy", "filter-output"), 0)
EARLY_NFTABLES = Found(ChainName("ip6", "kube-proxy", "filter-output"), -110)
IPTABLES = Found(ChainName("ip", "nat", "KUBE-SERVICES"))
EVERYTHING = [
    ChainName("ip", "kube-proxy", "filter-output"),
    ChainName("ip6", "kube-proxy", "filter-output"),
    *(ChainName(family, table, "KUBE-SERVICES") for family in ("ip", "ip6") for table in ("nat", "filter")),
]


@pytest.mark.parametrize(
    ("found", "said", "not_said"),
    [
        ([NFTABLES], ["(ip kube-proxy filter-output)", "source ranges"], ["own processes"]),
        ([EARLY_NFTABLES], ["(ip6 kube-proxy filter-output)", "source ranges", "own processes"], []),
        ([IPTABLES], ["(ip nat KUBE-SERVICES)"], ["source ranges", "own processes"]),
        (
            [NFTABLES, EARLY_NFTABLES, IPTABLES],
            ["(ip kube-proxy filter-output, ip6 kube-proxy filter-output, ip nat KUBE-SERVICES)", "own processes"],
            [],
        ),
    ],
    ids=["nftables mode", "nftables mode as it was", "iptables mode", "all at once"],
)
def test_it_is_said_what_they_can_still_do_and_how_to_remove_them(
    found: list[Found], said: list[str], not_said: list[str]
) -> None:
    text = words(found)
    assert [one for one in said if one not in text] == []
    assert [one for one in not_said if one in text] == []
    assert text.endswith("`kube-proxy --cleanup`")


@pytest.fixture
def of_kube_proxy() -> Iterator[None]:
    """Chains as both modes make them, and others of the same tables."""
    tables = {(name.family, name.table) for name in EVERYTHING}
    for family, table in tables:
        with NFTables(nfgen_family=NFPROTO[family]) as nft:
            nft.table("add", name=table)
    for name in EVERYTHING:
        with NFTables(nfgen_family=NFPROTO[name.family]) as nft:
            if name.table == "kube-proxy":
                priority = -110 if name.family == "ip" else 0
                nft.chain(
                    "add", table=name.table, name=name.chain, hook="output", type="filter", policy=1, priority=priority
                )
            else:
                nft.chain("add", table=name.table, name="KUBE-FIREWALL")
                nft.chain("add", table=name.table, name=name.chain)
    yield
    for family, table in tables:
        with NFTables(nfgen_family=NFPROTO[family]) as nft:
            nft.table("del", name=table)


def test_what_is_in_the_kernel_is_found(of_kube_proxy: None) -> None:  # noqa: ARG001 (it makes the chains)
    found = asyncio.run(other_proxies.find())
    assert [one.name for one in found] == EVERYTHING
    assert [one.priority for one in found] == [-110, 0, None, None, None, None]


def test_of_nothing_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(other_proxies.tell())
    assert caplog.records == []


def test_kubelets_own_chains_are_none_of_kube_proxys(caplog: pytest.LogCaptureFixture) -> None:
    with NFTables(nfgen_family=NFPROTO["ip"]) as nft:
        nft.table("add", name="filter")
        nft.chain("add", table="filter", name="KUBE-FIREWALL")
        nft.chain("add", table="filter", name="KUBE-KUBELET-CANARY")
        asyncio.run(other_proxies.tell())
        nft.table("del", name="filter")
    assert caplog.records == []


def test_it_is_one_warning(of_kube_proxy: None, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ARG001
    asyncio.run(other_proxies.tell())
    assert [one.levelno for one in caplog.records] == [logging.WARNING]


def test_a_kernel_that_does_not_tell_is_another_warning_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RefusedError(Refusal(1, errno.EPERM, ""), index=0)

    monkeypatch.setattr(NetlinkSocket, "talk", refuse)
    asyncio.run(other_proxies.tell())
    (record,) = caplog.records
    assert (record.levelno, "cannot see" in record.getMessage()) == (logging.WARNING, True)
