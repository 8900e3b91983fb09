"""kpf's own addresses on `lo`: which are ours, which is taken, and how the kernel has them."""

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from pyroute2 import IPRoute

from kpf.lab.hosts import Host, set_sysctl
from kpf.model.names import Family, IPAddress
from kpf.netlink.addresses import AddressWatch, LocalAddress, NodeAddresses
from kpf.netlink.own import DEFAULT, MARK, choose, own_addresses, put, take_away, without_own
from kpf.netlink.socket import RefusedError
from kpf.uapi.internal import LOOPBACK_IFINDEX as LO

FOUR, SIX = (DEFAULT[family] for family in Family)


def on(interface: int, address: str, *, mark: int = 0, is_global: bool = True, bits: int = 0) -> LocalAddress:
    ip = ip_address(address)
    return LocalAddress(interface, ip, is_global=is_global, bits=bits or ip.max_prefixlen, mark=mark)


LOOPBACK = on(LO, "::1", mark=1, is_global=False)
# as before Linux 5.18
UNMARKED = on(LO, "::1", is_global=False)
OURS = on(LO, str(FOUR), mark=MARK, is_global=False)
ELSEWHERE = on(2, "192.0.2.1", bits=24)


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        ([LOOPBACK, OURS, on(LO, str(SIX), mark=MARK)], [FOUR, SIX]),
        ([LOOPBACK, on(LO, "10.9.9.9", mark=MARK)], [ip_address("10.9.9.9")]),
        ([LOOPBACK, on(LO, str(FOUR), is_global=False)], []),
        ([LOOPBACK, on(2, str(FOUR), mark=MARK)], []),
        ([UNMARKED, on(LO, str(FOUR), is_global=False), on(LO, str(SIX))], [FOUR, SIX]),
        ([UNMARKED, on(LO, "10.9.9.7", is_global=False)], [ip_address("10.9.9.7")]),
        ([UNMARKED, on(LO, "10.9.8.7", is_global=False)], []),
        ([UNMARKED, on(LO, str(FOUR))], []),
        ([UNMARKED, on(LO, str(FOUR), is_global=False, bits=24)], []),
    ],
    ids=[
        "marked",
        "marked, of any range",
        "not marked by us",
        "marked by chance, on another link",
        "by their looks",
        "by their looks, in the range that is asked for",
        "of another range",
        "of global scope",
        "a network",
    ],
)
def test_which_are_ours(found: list[LocalAddress], ours: list[IPAddress]) -> None:
    known = NodeAddresses((*found, ELSEWHERE))
    asked = [ip_address("10.9.9.9")]
    assert own_addresses(known, asked) == frozenset(ours)
    assert without_own(known, asked).all() == known.all() - frozenset(ours)


def taken(*addresses: str) -> list[LocalAddress]:
    return [on(2, one) for one in addresses]


@pytest.mark.parametrize(
    ("asked", "found", "before", "chosen"),
    [
        ("169.254.77.1", [], None, "169.254.77.1"),
        ("169.254.77.1", taken("169.254.77.1", "169.254.77.2"), None, "169.254.77.3"),
        ("169.254.77.1", [on(LO, "169.254.77.1")], None, "169.254.77.2"),
        ("169.254.77.1", [on(LO, "169.254.77.5", mark=MARK)], None, "169.254.77.5"),
        ("169.254.77.1", [on(LO, "169.254.77.5", mark=MARK), OURS], "169.254.77.5", "169.254.77.5"),
        ("169.254.77.1", [OURS, *taken("169.254.77.1")], None, "169.254.77.1"),
        ("169.254.77.1", [], "169.254.77.5", "169.254.77.5"),
        ("169.254.77.1", taken("169.254.77.5"), "169.254.77.5", "169.254.77.1"),
        ("10.9.9.9", [OURS], None, "10.9.9.9"),
        ("10.9.9.254", taken("10.9.9.254"), None, "10.9.9.1"),
        ("169.254.77.1", taken(*(f"169.254.77.{number}" for number in range(1, 255))), None, None),
        ("192.0.2.9", [], None, "192.0.2.9"),
        ("192.0.2.1", [], None, None),
        ("192.0.2.1", [], "192.0.2.9", "192.0.2.9"),
        ("fd77:6b70:66::1", taken("fd77:6b70:66::1"), None, "fd77:6b70:66::2"),
        ("fd77::ffff:ffff:ffff:fffe", taken("fd77::ffff:ffff:ffff:fffe"), None, "fd77::1"),
        ("fd77:6b70:66::1", taken(*(f"fd77:6b70:66::{number:x}" for number in range(1, 300))), None, None),
    ],
    ids=[
        "free",
        "somebody has it",
        "somebody has it on lo",
        "left by the one before",
        "the one that we had",
        "somebody has it too",
        "taken away from us",
        "taken from us by somebody",
        "another range than before",
        "the last of its range",
        "all are somebody's",
        "asked for, of a link's network",
        "the node's, and then of a link's network",
        "of a link's network, that we had",
        "IPv6",
        "the last of IPv6's",
        "so many are not looked at",
    ],
)
def test_which_address_is_chosen(asked: str, found: list[LocalAddress], before: str | None, chosen: str | None) -> None:
    known = NodeAddresses((LOOPBACK, ELSEWHERE, *found))
    seen = choose(ip_address(asked), known, ip_address(before) if before else None)
    assert seen == (ip_address(chosen) if chosen else None)


def read() -> NodeAddresses:
    return asyncio.run(AddressWatch().read())


@pytest.fixture
def there() -> Iterator[None]:
    for address in (FOUR, SIX):
        asyncio.run(put(address))
    yield
    for address in (FOUR, SIX):
        asyncio.run(take_away(address))
        # once more is none too many
        asyncio.run(take_away(address))
    assert own_addresses(read()) == frozenset()


@pytest.mark.usefixtures("there")
def test_the_kernel_has_them_marked_single_and_ready_for_use() -> None:
    for address in (FOUR, SIX):
        asyncio.run(put(address))
        (found,) = [one for one in read().addresses if one.address == address]
        assert (found.interface, found.bits, found.mark) == (LO, address.max_prefixlen, MARK)
        with socket.create_server((str(address), 0), family=(socket.AF_INET, socket.AF_INET6)[":" in str(address)]):
            pass
    assert own_addresses(read()) == {FOUR, SIX}


@pytest.mark.usefixtures("there")
def test_they_are_nobodys_source() -> None:
    """Whoever is reached over a link without an address of its own, as Calico's, and is nearer to ours than others."""
    host = Host("own0", ours=(), theirs=("169.254.77.9/32", "fd77:6b70:66:1::9/128"))
    other = Host("own1", ours=("198.51.100.1/24", "2001:db8:51::1/64"), theirs=("198.51.100.2/24", "2001:db8:51::2/64"))
    try:
        with IPRoute() as ip:
            (index,) = ip.link_lookup(ifname="own0")
            for route in ("169.254.77.9/32", "fd77:6b70:66:1::9/128"):
                ip.route("add", dst=route, oif=index)
        for family, far in ((socket.AF_INET, "169.254.77.9"), (socket.AF_INET6, "fd77:6b70:66:1::9")):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                assert ip_address(probe.getsockname()[0]) not in (FOUR, SIX)
    finally:
        host.close()
        other.close()


def test_what_the_kernel_refuses_is_told() -> None:
    if not set_sysctl("net.ipv6.conf.lo.disable_ipv6", "1"):
        pytest.skip("the sysctls of this namespace cannot be set")
    try:
        with pytest.raises(RefusedError, match="disabled"):
            asyncio.run(put(SIX))
    finally:
        set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
