"""Which proxy port a frontend gets: the first free one from a hash of its name, so that restarts keep it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from kpf.model.names import FrontendKey


def candidates(key: FrontendKey, port_range: range) -> Iterator[int]:
    """Every port of the range once, beginning at the frontend's own."""
    name = "\0".join(map(str, (*key.port, key.family, key.endpoint_set)))
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    start = int.from_bytes(digest.digest(), "big") % len(port_range)
    yield from port_range[start:]
    yield from port_range[:start]


def assign_ports(
    keys: Iterable[FrontendKey],
    assigned: Mapping[FrontendKey, int],
    *,
    port_range: range,
    reserved: frozenset[int],
    limit: int,
    is_free: Callable[[FrontendKey, int], bool],
) -> dict[FrontendKey, int]:
    """Give each of `keys` a port: the one that it has, if that is in the range, else its first candidate that is free.

    `reserved` ports (NodePorts) are never given away, and who has one gets another. Keys for which no port is left, or
    that would be more than `limit`, are missing from the result.
    """
    result: dict[FrontendKey, int] = {}
    newcomers = []
    for key in keys:
        port = assigned.get(key)
        if port is not None and port in port_range and port not in reserved:
            result[key] = port
        else:
            newcomers.append(key)
    taken = {*result.values(), *reserved}
    left = len(set(port_range) - taken)
    # families in which strangers have all that is left
    exhausted = set()
    for key in sorted(newcomers):
        if not left or len(result) >= limit:
            break
        if key.family in exhausted:
            continue
        for port in candidates(key, port_range):
            if port not in taken and is_free(key, port):
                result[key] = port
                taken.add(port)
                left -= 1
                break
        else:
            exhausted.add(key.family)
    return result
