"""`/healthz` and `/livez`, as kube-proxy has them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from kpf.observe.health import Health, answer
from kpf.observe.http import Answer, Document


def health_documents(health: Callable[[], Health], count: Callable[[str, int], None]) -> Mapping[str, Document]:
    """By their paths; `health` is asked for each request.

    `count` is told of each: "healthz" or "livez", and the status.
    """

    def document(name: str) -> Document:
        def made() -> Answer:
            status, body = answer(health(), datetime.now(UTC), with_node=name == "healthz")
            count(name, status)
            return status, body

        return made

    return {f"/{name}": document(name) for name in ("healthz", "livez")}
