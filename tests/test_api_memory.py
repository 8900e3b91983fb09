"""What is told again and again takes no more room than what is told once."""

import gc
import sys

import orjson

from kpf.sources.api.reflector import Reflector
from kpf.sources.api.resources import Request, resources
from kpf.sources.api.store import Store
from kpf.sources.decode import Kind
from tests.apiserver.objects import endpoint_slice

EVENTS = 25_000
SLICES = 200
# objects that come and go with what happens to be under way; a leak of one an event would be 20,000
NOISE_BLOCKS = 500


def line(kind: str, number: int) -> bytes:
    """The event of this number: slices change, go and come again in turn."""
    name = f"service-{number % SLICES}"
    raw = endpoint_slice(name, [f"10.{number % 250}.{number // 250 % 250}.{place}" for place in (1, 2, 3)])
    raw["metadata"] |= {"uid": f"uid-{name}-{number}", "resourceVersion": str(number + 1)}
    return orjson.dumps({"type": kind, "object": raw}) + b"\n"


def test_memory_does_not_grow_over_25_000_events() -> None:
    store, reflector = Store("node-1"), Reflector(resources("node-1")[1], chance=lambda: 0.5)

    def hear(numbers: range) -> None:
        for number in numbers:
            kind = "DELETED" if number % 7 == 0 else "MODIFIED"
            for event in reflector.feed(line(kind, number), float(number)):
                store.apply(Kind.ENDPOINT_SLICE, event)
            if number % 100 == 0:
                store.snapshot()

    assert isinstance(reflector.next(0.0), Request)
    reflector.begin(200, 0.0)
    bookmark = {"metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}
    reflector.feed(orjson.dumps({"type": "BOOKMARK", "object": bookmark}) + b"\n", 0.0)
    hear(range(EVENTS // 5))
    gc.collect()
    before = sys.getallocatedblocks()
    hear(range(EVENTS // 5, EVENTS))
    gc.collect()
    assert sys.getallocatedblocks() - before < NOISE_BLOCKS
