"""The text of `/metrics`, by prometheus-client, some series at a time. Imported when it is asked for the first time."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from kpf.observe.families import Family, Kind, Labels

# some 20 us each
AT_A_TIME = 100

_END = b"# EOF\n"


class _Part(Collector):
    """Some series of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        """What the library renders."""
        return (self._metric,)


def exposition(families: Iterable[Family], *, is_open_metrics: bool) -> Iterator[bytes]:
    """The text in pieces, each of which takes a few milliseconds: plain (version 0.0.4), or OpenMetrics (1.0.0).

    A family without series is left out.
    """
    text_of: Callable[[Collector], bytes] = open_metrics_text if is_open_metrics else plain_text
    for family in families:
        series, is_begun = iter(family.series), False
        while some := list(islice(series, AT_A_TIME)):
            metric = Metric(family.name, family.text, family.kind)
            labels_of = _canonical if is_open_metrics and family.kind is Kind.HISTOGRAM else dict
            metric.samples = [Sample(family.name + one.suffix, labels_of(one.labels), one.value) for one in some]
            text = text_of(_Part(metric)).removesuffix(_END)
            yield _without_comments(text) if is_begun else text
            is_begun = True
    if is_open_metrics:
        yield _END


def _canonical(labels: Labels) -> dict[str, str]:
    """OpenMetrics has another way to write whole numbers as bounds."""
    bound = labels.get("le")
    return dict(labels) if bound is None else {**labels, "le": str(floatToGoString(bound))}  # type: ignore[no-untyped-call]


def _without_comments(text: bytes) -> bytes:
    """A family's help and type are said once."""
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text
