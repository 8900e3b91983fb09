"""Which word was meant by one that means nothing."""

import pytest

from kpf.suggestions import did_you_mean, nearest

FIELDS = ("clusterIP", "clusterIPs", "nodePort", "ports", "sessionAffinity", "sessionAffinityConfig", "type")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("nodeport", "nodePort"),
        ("node_port", "nodePort"),
        ("sessionAffinty", "sessionAffinity"),
        ("SESSIONAFFINITYCONFIG", "sessionAffinityConfig"),
        ("clusterIp", "clusterIP"),
        ("typ", "type"),
        ("colour", None),
        ("", None),
        ("nodePort" * 10_000, None),
    ],
)
def test_who_is_meant(word: str, meant: str | None) -> None:
    assert nearest(word, FIELDS) == meant
    assert did_you_mean(word, FIELDS) == (f", did you mean {meant}?" if meant else "")


def test_nobody_is_meant_where_nobody_is() -> None:
    assert nearest("web", ()) is None
    assert nearest("web", ["x" * 1000]) is None


def test_how_alike_it_must_be() -> None:
    assert (nearest("wbe", ["web"]), nearest("wbe", ["web"], 0.7)) == ("web", None)
