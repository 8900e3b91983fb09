"""Which Services somebody asks for: `[NAMESPACE/]NAME[:PORT]`."""

import re
from typing import NamedTuple

from kpf.model.names import ServicePortName

_FORM = re.compile(
    r"(?:([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/)?([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)(?::([-a-z0-9]{1,63}))?\Z",
    re.ASCII,
)


class Selection(NamedTuple):
    """A part that is empty is any."""

    namespace: str = ""
    service: str = ""
    port: str = ""

    def has(self, name: ServicePortName) -> bool:
        """Whether it is one of these."""
        return (
            self.namespace in ("", name.namespace)
            and self.service in ("", name.service)
            and self.port in ("", name.port)
        )

    def __str__(self) -> str:
        return f"{self.namespace or '*'}/{self.service or '*'}" + (f":{self.port}" if self.port else "")


def selection_of(text: str, namespace: str = "") -> Selection:
    """`text`: "" for all Services; `namespace`: where to look for a name that has none. Raises ValueError."""
    if not text:
        return Selection(namespace)
    found = _FORM.match(text)
    if found is None:
        raise ValueError(f"{text[:100]!r} is no Service: it is given as [NAMESPACE/]NAME[:PORTNAME]")
    given = found[1] or namespace
    if namespace and given != namespace:
        raise ValueError(f"{text[:100]!r} is not in namespace {namespace}")
    return Selection(given, found[2], found[3] or "")
