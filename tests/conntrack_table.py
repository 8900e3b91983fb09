"""A node beside a host that answers nothing, the entries of its conntrack, and rules that UDP is rewritten by."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import NamedTuple

from pyroute2.nftables.main import NFTables

from kpf.lab.hosts import Host, add_route
from kpf.model.names import Family, SocketAddress, family_of
from kpf.netlink.attributes import attribute, attributes, be16, be32, message, nested, u8
from kpf.netlink.conntrack import DELETE, GET, IP_DESTINATION, IP_SOURCE
from kpf.netlink.nfnetlink import NFPROTO_OF, nfgenmsg, type_of
from kpf.netlink.socket import Frame, NetlinkSocket
from kpf.uapi.netfilter import IPS
from kpf.uapi.netlink import NETLINK, NLM_F
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS
from kpf.uapi.nfnetlink_conntrack import CTA, CTA_PROTO, CTA_TUPLE
from tests.values import at as parse

# linux/netfilter/nfnetlink_conntrack.h: what kpf itself never asks for
CTA_TIMEOUT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE = 7, 4, 5, 6
NEW = type_of(NFNL_SUBSYS.CTNETLINK, 0)  # IPCTNL_MSG_CT_NEW

NODE = ("192.168.72.1", "fd00:72::1")
OUTSIDE = ("192.168.72.2", "fd00:72::2")
CLIENT = {Family.IPV4: "10.1.0.1", Family.IPV6: "fd00:1::1"}
MASQUERADED = {Family.IPV4: NODE[0], Family.IPV6: NODE[1]}


@contextmanager
def host_outside() -> Iterator[Host]:
    """A host that swallows whatever has an address which is unknown to the node."""
    host = Host(
        "early0",
        ours=[f"{NODE[0]}/24", f"{NODE[1]}/64"],
        theirs=[f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64"],
    )
    for gateway in OUTSIDE:
        add_route("default", gateway)
    yield host
    host.close()


class Flow(NamedTuple):
    """An entry to be made: `sender` is the client's port, or the identifier of a ping, and tells the flow apart."""

    sender: int
    destination: str
    answered_by: str
    protocol: int = 17
    seen_reply: bool = True
    masqueraded: bool = False
    zone: int | None = None

    def message(self) -> bytes:
        destination, source = parse(self.destination), parse(self.answered_by)
        family = Family(destination.address.version)
        client = SocketAddress(ip_address(CLIENT[family]), self.sender)
        back_to = SocketAddress(ip_address(MASQUERADED[family]), self.sender) if self.masqueraded else client
        # every entry in the table is confirmed
        status = IPS.CONFIRMED | IPS.SEEN_REPLY * self.seen_reply
        body = nfgenmsg(NFPROTO_OF[family])
        body += nested(CTA.TUPLE_ORIG, self._tuple(client, destination, echo=8))
        body += nested(CTA.TUPLE_REPLY, self._tuple(source, back_to, echo=0))
        body += be32(CTA_TIMEOUT, 600) + be32(CTA.STATUS, status)
        if self.zone is not None:
            body += be16(CTA.ZONE, self.zone)
        return message(NEW, NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE, body)

    def _tuple(self, source: SocketAddress, destination: SocketAddress, *, echo: int) -> bytes:
        family = family_of(source.address)
        addresses = attribute(IP_SOURCE[family], source.address.packed)
        addresses += attribute(IP_DESTINATION[family], destination.address.packed)
        protocol = u8(CTA_PROTO.NUM, self.protocol)
        if self.protocol == socket.IPPROTO_ICMP:
            protocol += be16(CTA_PROTO_ICMP_ID, self.sender)
            protocol += u8(CTA_PROTO_ICMP_TYPE, echo) + u8(CTA_PROTO_ICMP_CODE, 0)
        else:
            protocol += be16(CTA_PROTO.SRC_PORT, source.port) + be16(CTA_PROTO.DST_PORT, destination.port)
        return nested(CTA_TUPLE.IP, addresses) + nested(CTA_TUPLE.PROTO, protocol)


class Entries:
    """The entries of our namespace, as somebody else than `forget` makes and sees them."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK.NETFILTER)

    async def make(self, *flows: Flow) -> None:
        for flow in flows:
            await self._netlink.talk([flow.message()])

    async def senders(self) -> set[int]:
        dump = message(GET, NLM_F.REQUEST | NLM_F.DUMP, nfgenmsg(0))
        return {self._sender(frame) for frame in await self._netlink.talk([dump])}

    @staticmethod
    def _sender(frame: Frame) -> int:
        entry = attributes(frame.payload[NFGENMSG.size :])
        protocol = attributes(attributes(entry[CTA.TUPLE_ORIG])[CTA_TUPLE.PROTO])
        return int.from_bytes(protocol.get(CTA_PROTO.SRC_PORT) or protocol[CTA_PROTO_ICMP_ID], "big")

    async def clear(self) -> None:
        await self._netlink.talk([message(DELETE, NLM_F.REQUEST | NLM_F.ACK, nfgenmsg(0))])

    def close(self) -> None:
        self._netlink.close()


class Rewriting:
    """A table in which UDP of our own to `portal` goes to an endpoint, or to nobody yet."""

    NAME = "endpoints"

    def __init__(self, portal: str) -> None:
        self.portal = ip_address(portal)
        self._nft = NFTables(nfgen_family=2 if self.portal.version == 4 else 10)
        self._nft.table("add", name=self.NAME)
        # NF_ACCEPT 1, NFT_CT_STATE 0: as above, some rule has to ask for the state
        for name, kind in (("output", "nat"), ("state", "filter")):
            self._nft.chain("add", table=self.NAME, name=name, hook="output", type=kind, priority=-100, policy=1)
        state = _expression("ct", CT_DREG=8, CT_KEY=0)
        self._nft.rule("add", table=self.NAME, chain="state", expressions=([state],))

    def send_to(self, endpoint: str) -> None:
        self._nft.rule("del", table=self.NAME, chain="output")
        self._nft.rule("add", table=self.NAME, chain="output", expressions=(self._rule(ip_address(endpoint).packed),))

    def _rule(self, endpoint: bytes) -> list[Mapping[str, object]]:
        offset, length = (16, 4) if self.portal.version == 4 else (24, 16)
        # NFT_META_L4PROTO 16, NFT_PAYLOAD_NETWORK_HEADER 1, NFT_CMP_EQ 0, NFT_NAT_DNAT 1; registers from NFT_REG32_00 8
        return [
            _expression("meta", META_DREG=8, META_KEY=16),
            _expression("cmp", CMP_SREG=8, CMP_OP=0, CMP_DATA=_value(bytes([socket.IPPROTO_UDP]))),
            _expression("payload", PAYLOAD_DREG=8, PAYLOAD_BASE=1, PAYLOAD_OFFSET=offset, PAYLOAD_LEN=length),
            _expression("cmp", CMP_SREG=8, CMP_OP=0, CMP_DATA=_value(self.portal.packed)),
            _expression("immediate", IMMEDIATE_DREG=8, IMMEDIATE_DATA=_value(endpoint)),
            _expression("nat", NAT_TYPE=1, NAT_FAMILY=2 if len(endpoint) == 4 else 10, NAT_REG_ADDR_MIN=8),
        ]

    def close(self) -> None:
        self._nft.table("del", name=self.NAME)
        self._nft.close()


def _value(data: bytes) -> Mapping[str, object]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _expression(name: str, **attributes_: object) -> Mapping[str, object]:
    data = [(f"NFTA_{key}", value) for key, value in attributes_.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": data})]}
