"""What `kpf explain` takes for WHAT and --from, and how it refuses all else."""

from ipaddress import ip_address

import pytest

from kpf.explain.question import MAX_LENGTH, At, BadQuestionError, Named, NodePortOf, What, client_of, what_of
from kpf.model.names import ObjectName, Protocol

TCP, UDP, SCTP = Protocol

IPV4, IPV6 = ip_address("10.96.0.10"), ip_address("fd00::10")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("10.96.0.10", At(IPV4, None, None)),
        ("10.96.0.10/udp", At(IPV4, None, UDP)),
        ("10.96.0.10:53", At(IPV4, 53, TCP)),
        ("10.96.0.10:53/udp", At(IPV4, 53, UDP)),
        ("10.96.0.10:53/UDP", At(IPV4, 53, UDP)),
        ("10.96.0.10:65535/sctp", At(IPV4, 65535, SCTP)),
        ("fd00::10", At(IPV6, None, None)),
        ("[fd00::10]", At(IPV6, None, None)),
        ("[fd00::10]:53", At(IPV6, 53, TCP)),
        ("[fd00::10]:53/udp", At(IPV6, 53, UDP)),
        (":30080", NodePortOf(30080, TCP)),
        (":30080/udp", NodePortOf(30080, UDP)),
        ("shop/web", Named(ObjectName("shop", "web"), None)),
        ("shop/web:http-2", Named(ObjectName("shop", "web"), "http-2")),
        ("10/udp", Named(ObjectName("10", "udp"), None)),
    ],
)
def test_what_is_read(text: str, what: What) -> None:
    assert what_of(text) == what


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "web",
        "10.96.0",
        "010.96.0.10",
        "10.96.0.10:",
        "10.96.0.10:http",
        "10.96.0.10:-1",
        "10.96.0.10:53/icmp",
        "10.96.0.10 ",
        "10.96.0.10\n",
        "10.96.0.0/16",
        "10.96.0.10:53:54",
        "fd00::10%eth0",
        "::ffff:10.96.0.10",
        "[fd00::10",
        "[10.96.0.10]]:53",
        "Shop/web",
        "shop/web/http",
        "shop/web:",
        "shop/-web",
        "shop/web\n",
        "a" * 64 + "/web",
        "\0",
        # digits, but not ASCII's
        "\u0661\u0660.96.0.10",
    ],
)
def test_what_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadQuestionError) as raised:
        what_of(text)
    assert str(raised.value) == f"{text!r} is none of {FORMS}"


FORMS = "ADDRESS[:PORT], :NODEPORT (both with /udp or /sctp, if it is not TCP), or NAMESPACE/NAME[:PORTNAME]"


@pytest.mark.parametrize(
    "text", ["10.96.0.10:0", "10.96.0.10:65536", ":0", ":030080", ":999999999999", "10.96.0.10:080"]
)
def test_a_port_is_a_number_in_its_range(text: str) -> None:
    with pytest.raises(BadQuestionError, match="a port is a number from 1 to 65535"):
        what_of(text)


def test_what_is_long_is_not_repeated() -> None:
    with pytest.raises(BadQuestionError) as raised:
        what_of("x" * MAX_LENGTH)
    assert len(str(raised.value)) < 300
    with pytest.raises(BadQuestionError, match=f"more than {MAX_LENGTH} characters"):
        what_of("1" * (MAX_LENGTH + 1))


def test_a_client_is_an_address() -> None:
    assert client_of("fd00::10") == IPV6
    for text in ("", "10.96.0.10:80", "10.96.0.0/16", "web", "[fd00::10]"):
        with pytest.raises(BadQuestionError, match=r"^--from '.*': must be an IP address"):
            client_of(text)
