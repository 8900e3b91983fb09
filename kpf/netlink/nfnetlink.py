"""Messages of netfilter's subsystems, and what the kernel calls the model's families and protocols."""

from kpf.model.names import Family, Protocol
from kpf.uapi.netfilter import NFPROTO
from kpf.uapi.nfnetlink import NFGENMSG, NFNL_SUBSYS
from kpf.uapi.sockets import IPPROTO

NFPROTO_OF = {Family.IPV4: NFPROTO.IPV4, Family.IPV6: NFPROTO.IPV6}
IPPROTO_OF = {Protocol.TCP: IPPROTO.TCP, Protocol.UDP: IPPROTO.UDP, Protocol.SCTP: IPPROTO.SCTP}


def type_of(subsystem: NFNL_SUBSYS, kind: int) -> int:
    """A message's type."""
    return subsystem << 8 | kind


def nfgenmsg(family: int, resource: int = 0) -> bytes:
    """What a message's attributes stand behind; 0: no family."""
    return NFGENMSG.pack(family, 0, resource)
