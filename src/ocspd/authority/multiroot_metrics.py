"""The counters of multirootca, under the names that CFSSL's has; labels come from the roots file only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ocspd.ops.exposition import build_info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

_OPERATION = "sign"


class MultiRootMetrics(Collector):
    """Counts what becomes of the requests to authsign."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._bad_inputs = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request(self, label: str) -> None:
        """Count a request to a CA that exists."""
        self._requests[label] += 1

    def failure(self, label: str) -> None:
        """Count a signature that failed."""
        self._failures[label] += 1

    def bad_input(self) -> None:
        """Count a request that was not granted, for whatever reason."""
        self._bad_inputs += 1

    def exposition(self) -> tuple[bytes, str]:
        """Return the text format and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield build_info()
        for name, what, counts in (
            ("requests", "Requests to sign, by CA.", self._requests),
            ("requests_errored", "Requests for which signing failed, by CA.", self._failures),
        ):
            family = CounterMetricFamily(name, what, labels=["operation", "signer"])
            for label, count in counts.items():
                family.add_metric([_OPERATION, label], count)
            yield family
        bad = CounterMetricFamily(
            "bad_inputs", "Requests that were malformed or not allowed.", labels=["operation"]
        )
        bad.add_metric([_OPERATION], self._bad_inputs)
        yield bad
