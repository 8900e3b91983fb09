"""What shared memory calls a frontend, so that the next master knows whose it is. Pure."""

from collections.abc import Mapping

import orjson

from kpf.model.names import EndpointSet, Family, Forwarding, FrontendKey, Protocol, ServicePortName

_FIELDS = {"namespace", "service", "port", "protocol", "family", "endpoints", "forwarding"}


def label_of(frontend: FrontendKey) -> bytes:
    """JSON, 504 bytes at most: three names are 63 characters each."""
    port = frontend.port
    return orjson.dumps(
        {
            "namespace": port.namespace,
            "service": port.service,
            "port": port.port,
            "protocol": port.protocol,
            "family": frontend.family,
            "endpoints": frontend.endpoint_set,
            "forwarding": frontend.forwarding,
        }
    )


def frontend_of(label: bytes) -> FrontendKey:
    """Raises ValueError for what is none, or tells frontends apart that are one to this version."""
    said = orjson.loads(label)
    if not isinstance(said, Mapping) or set(said) != _FIELDS:
        raise ValueError(f"no frontend is called {label!r}")
    names = said["namespace"], said["service"], said["port"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"a frontend's names are text: {label!r}")
    return FrontendKey(
        ServicePortName(*names, Protocol(said["protocol"])),
        Family(said["family"]),
        EndpointSet(said["endpoints"]),
        Forwarding(said["forwarding"]),
    )
