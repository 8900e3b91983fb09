"""Chains of their own: of frontends that the kernel forwards to, and of portals with source ranges. Pure.

A frontend without affinity is one rule: the kernel's counter (numgen) says who is next, exact over all CPUs, and
an anonymous map has the endpoints. With affinity each endpoint has a chain, and a dynamic set of the clients that
stay with it: an endpoint that goes takes its affinity entries along, and those of the others are not touched.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

from kpf.model.names import FrontendKey, IPNetwork, SocketAddress
from kpf.model.rules import Forward, Portal
from kpf.nft import nat
from kpf.nft import statements as st
from kpf.nft.datatypes import ADDRESS_TYPE, SIZES, TYPE_PORT, TYPE_VERDICT, VERDICT_SIZE, concatenated
from kpf.nft.objects import Chain, Set
from kpf.nft.statements import Statement
from kpf.nft.values import Goto, Value

# the kernel takes 255 (NFT_NAME_MAXLEN), and an endpoint's address and port must go behind it
_MAX_NAME = 190


def chain_of(key: FrontendKey) -> str:
    """The name of a frontend's chain. No two frontends have the same: none of the parts has a slash."""
    port = key.port
    parts = (f"ip{key.family.value}", key.endpoint_set, port.protocol.lower(), port.namespace, port.service, port.port)
    name = "/".join(("to", *parts))
    return name if len(name) <= _MAX_NAME else f"to/{blake2b(name.encode(), digest_size=16).hexdigest()}"


def affinity_chain_of(key: FrontendKey, endpoint: SocketAddress) -> str:
    """The name of an endpoint's chain, and of its set of clients."""
    # a name may have no colons
    return f"{chain_of(key)}/{str(endpoint.address).replace(':', '.')}/{endpoint.port}"


def sources_chain_of(portal: Portal) -> str:
    """The name of the chain of a portal with source ranges. A name may have no colons."""
    return f"guard/{str(portal.address).replace(':', '.')}/{portal.protocol.lower()}/{portal.port}"


@dataclass(frozen=True, slots=True)
class AnonymousMap:
    """Values under 0, 1, ...; `identifier` names it within a transaction."""

    NAME: ClassVar[str] = "__map%d"
    identifier: int
    values: tuple[Value, ...]
    data_type: int
    data_length: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a forward is in the kernel: sets, and chains of which the first ones are referred to by the last."""

    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]
    endpoints_map: AnonymousMap | None


def parts(key: FrontendKey, forward: Forward, *, identifier: int, start: int) -> Parts:
    """`start` is the place of the endpoint that is first; `identifier` is the anonymous map's."""
    endpoints = forward.endpoints[start:] + forward.endpoints[:start]
    if forward.affinity_timeout_s is None:
        return _balanced(key, endpoints, identifier)
    return _with_affinity(key, endpoints, forward.affinity_timeout_s, identifier)


def _balanced(key: FrontendKey, endpoints: tuple[SocketAddress, ...], identifier: int) -> Parts:
    if len(endpoints) == 1:
        return Parts((), (Chain(chain_of(key), ((_protocol(key), nat.forward_to(endpoints[0])),)),), None)
    values = tuple(one.address.packed + one.port.to_bytes(2, "big") + b"\0\0" for one in endpoints)
    types = (ADDRESS_TYPE[key.family], TYPE_PORT)
    endpoints_map = AnonymousMap(identifier, values, concatenated(types), sum(SIZES[one] for one in types))
    shown = ", ".join(f"{index} : {one.address} . {one.port}" for index, one in enumerate(endpoints))
    forwarded = nat.forward_in_turn(key.family, len(endpoints), endpoints_map.NAME, identifier, shown)
    return Parts((), (Chain(chain_of(key), ((_protocol(key), forwarded),)),), endpoints_map)


def _with_affinity(key: FrontendKey, endpoints: tuple[SocketAddress, ...], timeout_s: int, identifier: int) -> Parts:
    names = {endpoint: affinity_chain_of(key, endpoint) for endpoint in endpoints}
    endpoints_map = AnonymousMap(identifier, tuple(map(Goto, names.values())), TYPE_VERDICT, VERDICT_SIZE)
    shown = ", ".join(f"{index} : goto {name}" for index, name in enumerate(names.values()))
    known = [(st.source_in(key.family, name), st.goto(name)) for name in names.values()]
    balanced = (st.go_in_turn(len(endpoints), endpoints_map.NAME, identifier, shown),)
    return Parts(
        tuple(Set(name, (ADDRESS_TYPE[key.family],), dynamic=True) for name in names.values()),
        (
            *(_endpoint_chain(key, endpoint, timeout_s) for endpoint in endpoints),
            Chain(chain_of(key), (*((st.family(key.family), *one) for one in known), balanced)),
        ),
        endpoints_map,
    )


def _endpoint_chain(key: FrontendKey, endpoint: SocketAddress, timeout_s: int) -> Chain:
    name = affinity_chain_of(key, endpoint)
    # an update that finds the set full ends its rule, so it has one of its own
    remembered = st.family(key.family), st.remember_source(key.family, name, timeout_s)
    return Chain(name, (remembered, (_protocol(key), nat.forward_to(endpoint))))


def _protocol(key: FrontendKey) -> Statement:
    return st.protocol(key.port.protocol)


def sources_chain(portal: Portal, sources: tuple[IPNetwork, ...]) -> Chain:
    """Whoever comes from one of these goes on where it came from; all others are dropped, as by kube-proxy."""
    return Chain(sources_chain_of(portal), (*((st.source_inside(one), st.leave()) for one in sources), (st.drop(),)))


def names(forwards: Mapping[FrontendKey, Forward], source_ranges: Mapping[Portal, object]) -> Iterator[str]:
    """Chains that belong to these; those of endpoints are names of sets, too."""
    for key, forward in forwards.items():
        yield chain_of(key)
        yield from sets_of(key, forward)
    yield from map(sources_chain_of, source_ranges)


def sets_of(key: FrontendKey, forward: Forward) -> list[str]:
    """Names of the sets of clients that stay with an endpoint, one each; none without affinity."""
    if forward.affinity_timeout_s is None:
        return []
    return [affinity_chain_of(key, endpoint) for endpoint in forward.endpoints]


def kept_sets(key: FrontendKey, old: Forward, new: Forward) -> list[str]:
    """Those that stay: an affinity entry keeps the time-out that it was given, so with a shorter one all begin anew."""
    if (new.affinity_timeout_s or 0) < (old.affinity_timeout_s or 0):
        return []
    stay = set(sets_of(key, new))
    return [name for name in sets_of(key, old) if name in stay]
