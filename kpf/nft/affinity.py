"""Reads affinity entries of what the kernel forwards: by client, and nothing else of the sets that they are in."""

import errno
import struct
from collections.abc import Sequence
from contextlib import closing

from kpf.model.names import IPAddress
from kpf.netlink.attributes import attribute, attributes, items, message, nested, string, text_of
from kpf.netlink.nfnetlink import nfgenmsg
from kpf.netlink.socket import NetlinkSocket
from kpf.nft.contents import GET_ELEMENTS
from kpf.nft.schema import TABLE
from kpf.uapi.netfilter import NFPROTO
from kpf.uapi.netlink import NETLINK, NLM_F, NLMSG
from kpf.uapi.nf_tables import NFTA_DATA, NFTA_LIST, NFTA_SET_ELEM, NFTA_SET_ELEM_LIST
from kpf.uapi.nfnetlink import NFGENMSG

# the client is not in the set, or there is no such set
ABSENT = {errno.ENOENT}
AT_ONCE = 64

_MS = struct.Struct(">Q")


async def read_expiry(names: Sequence[str], client: IPAddress) -> dict[str, int]:
    """Of the sets of clients that have this one: in how many milliseconds its entry ends. Raises OSError."""
    found: dict[str, int] = {}
    with closing(NetlinkSocket(NETLINK.NETFILTER)) as netlink:
        for start in range(0, len(names), AT_ONCE):
            asked = [_request(name, client) for name in names[start : start + AT_ONCE]]
            for frame in await netlink.talk(asked, expected=ABSENT):
                if frame.kind != NLMSG.ERROR:
                    told = attributes(frame.payload[NFGENMSG.size :])
                    found[text_of(told[NFTA_SET_ELEM_LIST.SET])] = _expires_ms(told)
    return found


def _request(name: str, client: IPAddress) -> bytes:
    key = nested(NFTA_SET_ELEM.KEY, attribute(NFTA_DATA.VALUE, client.packed))
    body = string(NFTA_SET_ELEM_LIST.TABLE, TABLE) + string(NFTA_SET_ELEM_LIST.SET, name)
    elements = nested(NFTA_SET_ELEM_LIST.ELEMENTS, nested(NFTA_LIST.ELEM, key))
    return message(GET_ELEMENTS, NLM_F.REQUEST | NLM_F.ACK, nfgenmsg(NFPROTO.INET) + body + elements)


def _expires_ms(told: dict[int, memoryview]) -> int:
    (element,) = map(attributes, items(told[NFTA_SET_ELEM_LIST.ELEMENTS]))
    return int(_MS.unpack(element[NFTA_SET_ELEM.EXPIRATION])[0])
