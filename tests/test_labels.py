"""What shared memory calls a frontend."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpf.master.labels import frontend_of, label_of
from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, Protocol, ServicePortName
from kpf.shm.layout import LABEL_LIMIT

names = st.text("abyz09-", min_size=1, max_size=63)
keys = st.builds(
    FrontendKey,
    st.builds(ServicePortName, names, names, st.one_of(st.just(""), names), st.sampled_from(Protocol)),
    st.sampled_from(Family),
    st.sampled_from(EndpointSet),
    st.sampled_from(Forwarding),
)
KEY = FrontendKey(ServicePortName("n" * 63, "s" * 63, "p" * 63, Protocol.SCTP), Family.IPV6, EndpointSet.CLUSTER)


@given(keys)
def test_a_label_says_which_frontend_it_is(key: FrontendKey) -> None:
    assert frontend_of(label_of(key)) == key


def test_the_longest_label_has_its_place() -> None:
    assert len(label_of(KEY)) <= LABEL_LIMIT


@pytest.mark.parametrize(
    "change",
    [
        {"family": 5},
        {"family": None},
        {"protocol": "ICMP"},
        {"port": 1},
        {"endpoints": []},
        {"zone": "a"},
        {"service": None},
    ],
)
def test_what_another_version_tells_apart_is_none_of_ours(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # each for its own reason
        frontend_of(orjson.dumps(orjson.loads(label_of(KEY)) | change))


@given(st.one_of(st.binary(), st.sampled_from([b"", b"[]", b"{}", b'"web"', b"1"])))
def test_any_bytes_are_a_frontend_or_a_value_error(label: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        frontend_of(label)
