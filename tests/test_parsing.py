"""Addresses and networks, as kube-proxy reads them: the cases are those of Go's own tests, and what they leave out."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.model.parsing import cidr_of, ip_of, strict_cidr, strict_ip


@pytest.mark.parametrize(
    ("text", "address"),
    [
        # k8s.io/utils/internal/third_party/forked/golang/net/ip_test.go, parseIPTests
        ("127.0.1.2", "127.0.1.2"),
        ("127.001.002.003", "127.1.2.3"),
        ("127.007.008.009", "127.7.8.9"),
        ("127.010.020.030", "127.10.20.30"),
        ("::ffff:127.1.2.3", "127.1.2.3"),
        ("::ffff:127.010.020.030", "127.10.20.30"),
        ("::ffff:7f01:0203", "127.1.2.3"),
        ("0:0:0:0:0000:ffff:127.1.2.3", "127.1.2.3"),
        ("0:0:0:0:000000:ffff:127.1.2.3", "127.1.2.3"),
        ("0:0:0:0::ffff:127.1.2.3", "127.1.2.3"),
        ("2001:4860:0000:2001:0000:0000:0000:0068", "2001:4860:0:2001::68"),
        # by its code
        ("0000000000010.0.0.1", "10.0.0.1"),
        ("000.0.0.00", "0.0.0.0"),
        ("FD00::00A", "fd00::a"),
        ("64:ff9b::010.0.0.1", "64:ff9b::a00:1"),
        ("::ffff:0:0", "0.0.0.0"),
        ("::ffff:0:010.0.0.1", "::ffff:0:a00:1"),
    ],
)
def test_addresses_as_kube_proxy_reads_them(text: str, address: str) -> None:
    assert ip_of(text) == ip_address(address)


@pytest.mark.parametrize(
    "text",
    [
        *("-0.0.0.0", "0.-1.0.0", "127.0.0.256", "abc", "123:", "fe80::1%lo0", "fe80::1%911", ""),
        "a1:a2:a3:a4::b1:b2:b3:b4",
        *("1.2.3", "1.2.3.4.5", "1..3.4", "0x1.2.3.4", "1.2.3.0x4", " 1.2.3.4", "1.2.3.4 ", "1.2.3.4\n", "1.2.3.4/24"),
        *("1.2.3.4:80", "1.2.3.4::", "::1::", ":::", "fd00::10000", "fd00::g", "\u0661.2.3.4", "12345", "[::1]"),
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="must be an IP address"):
        ip_of(text)
    with pytest.raises(ValueError, match="must be an IP address"):
        strict_ip(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        # parseCIDRTests
        ("135.104.0.1/24", "135.104.0.0/24"),
        ("0.0.0.0/24", "0.0.0.0/24"),
        ("127.000.000.001/32", "127.0.0.1/32"),
        ("127.010.020.030/32", "127.10.20.30/32"),
        ("abcd:2345::/24", "abcd:2300::/24"),
        ("2001:DB8::1/48", "2001:db8::/48"),
        # by its code, and net.IP.Mask and net.IPNet.String
        ("10.0.0.0/08", "10.0.0.0/8"),
        ("::ffff:1.2.3.4/120", "1.2.3.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:1.2.3.4/64", "::/64"),
        ("::ffff:1.2.3.4/95", "::fffe:0:0/95"),
    ],
)
def test_networks_as_kube_proxy_reads_them(text: str, network: str) -> None:
    assert cidr_of(text) == ip_network(network, strict=False)


@pytest.mark.parametrize(
    "text",
    [
        *("192.168.1.1/255.255.255.0", "192.168.1.1/35", "2001:db8::1/-1", "2001:db8::1/-0", "-0.0.0.0/32"),
        "0.0.0.0/-0",
        *("", "/8", "10.0.0.0", "10.0.0.0/", "10/8", " 10.0.0.0/8", "10.0.0.0/8 ", "10.0.0.0/ 8", "fd00::/129"),
        *("::ffff:1.2.3.4/129", "fe80::%eth0/64", "10.0.0.0/8/8", "10.0.0.0/\u0668", f"10.0.0.0/{'9' * 5000}"),
    ],
)  # fmt: skip
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="must be a CIDR"):
        cidr_of(text)
    with pytest.raises(ValueError, match="must be a CIDR"):
        strict_cidr(text)


@pytest.mark.parametrize("text", ["010.0.0.1", "::ffff:10.0.0.1", "fd00::00001"])
def test_forms_that_are_not_taken_any_more(text: str) -> None:
    assert ip_of(text)
    with pytest.raises(ValueError, match="must"):
        strict_ip(text)
    with pytest.raises(ValueError, match="must be a CIDR"):
        strict_cidr(f"{text}/32")


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(ADDRESSES, st.integers(0, 3))
def test_zeros_in_front_never_change_an_address(address: IPv4Address | IPv6Address, zeros: int) -> None:
    expected = strict_or_mapped(address)
    assert ip_of(str(address)) == expected
    if isinstance(address, IPv4Address):
        padded = ".".join("0" * zeros + part for part in str(address).split("."))
        assert ip_of(f"::ffff:{padded}") == expected
    else:
        padded = ":".join("0" * zeros + part for part in address.exploded.split(":"))
    assert ip_of(padded) == expected


def strict_or_mapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    try:
        return strict_ip(str(address))
    except ValueError:
        assert isinstance(address, IPv6Address)
        assert address.ipv4_mapped is not None
        return address.ipv4_mapped


@given(st.text(alphabet="0123456789abcfx.:%/ ", max_size=20))
def test_what_is_strict_is_read_alike(text: str) -> None:
    try:
        strict = strict_ip(text)
    except ValueError:
        return
    assert ip_of(text) == strict
