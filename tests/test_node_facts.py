"""This node as the plan sees it."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from kpf.config import Config
from kpf.master import facts
from kpf.master.facts import NodeWatch, node_facts
from kpf.model.names import Family
from kpf.model.snapshot import Snapshot
from kpf.netlink.addresses import LocalAddress, NodeAddresses

HERE = NodeAddresses(tuple(LocalAddress(1, ip_address(one)) for one in ("192.0.2.1", "127.0.0.1", "2001:db8::1")))


def configured(*bind: str) -> Config:
    return Config.model_construct(
        bind_address=tuple(map(ip_address, bind)),
        node_name="node-1",
        node_port_addresses=(),
        allow_external_ips=True,
    )


@pytest.mark.parametrize(
    ("bind", "served", "said"),
    [
        ((), {4: "192.0.2.1", 6: "2001:db8::1"}, ""),
        (("192.0.2.9",), {6: "2001:db8::1"}, "bindAddress 192.0.2.9 is no address of this node"),
        (("127.0.0.9",), {4: "127.0.0.9", 6: "2001:db8::1"}, ""),
        (("0.0.0.0",), {4: "192.0.2.1", 6: "2001:db8::1"}, ""),
    ],
    ids=["found", "of another node", "loopback is a whole network", "wildcard"],
)
def test_only_an_address_of_this_node_serves(bind: tuple[str, ...], served: dict[int, str], said: str) -> None:
    warnings: list[str] = []
    seen = node_facts(configured(*bind), HERE, Snapshot(), warnings.append)
    assert {int(family): str(address) for family, address in seen.proxy_addresses.items()} == served
    assert [said in warning for warning in warnings] == [True] * bool(said)


def test_a_family_without_any_address_is_not_served_and_said() -> None:
    warnings: list[str] = []
    only_four = NodeAddresses(HERE.addresses[:2])
    assert set(node_facts(configured(), only_four, Snapshot(), warnings.append).proxy_addresses) == {Family.IPV4}
    assert warnings == ["this node has no IPv6 address: Services are not served over IPv6"]


def test_addresses_that_cannot_be_read_for_a_while_end_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(facts, "RETRY_S", 0.01)

    class Watch:
        tries = 0

        async def changes(self) -> AsyncIterator[NodeAddresses]:
            self.tries += 1
            if self.tries < 3:
                raise OSError(24, "Too many open files")
            yield HERE
            await asyncio.Event().wait()

    async def scene() -> None:
        node = NodeWatch(configured())
        monkeypatch.setattr(node, "_watch", Watch())
        await asyncio.wait_for(anext(node.changes()), 2.0)
        assert node.facts(Snapshot()).local_addresses == HERE.all()

    asyncio.run(scene())
    assert "the last known ones stay" in caplog.text
