"""Prometheus metrics of a responder: the workers' counters, summed on scrape, and the supervisor's state.

Names follow Prometheus' conventions: prefix `ocspd_`, base units, `_total` for counters, points in time as
`_timestamp_seconds` (so that an alert still works when scraping stops). No label value comes from a client.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ocspd._index import NO_NEXT_UPDATE
from ocspd.metrics import COUNTERS, HASHES, LATENCY_BOUNDS_NS, METHODS, OUTCOMES, SLOW_CAUSES
from ocspd.ops.exposition import build_info
from ocspd.responder.pulling import PulledIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ocspd.responder.supervisor import Supervisor

_TIMEOUTS = ("header", "idle", "write")


class ResponderCollector(Collector):
    """Collects one responder's metrics on each scrape; holds no state of its own."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        totals = [slot.totals() for slot in self._supervisor.pool.slots]
        counts = dict(zip(COUNTERS, map(sum, zip(*totals, strict=True)), strict=True)) if totals else {}
        yield from _from_counters({name: counts.get(name, 0) for name in COUNTERS})
        yield from self._workers()
        yield from self._index()
        yield from self._pulling()
        visible = self._supervisor.visible
        yield _histogram(
            "ocspd_change_visible_seconds",
            "Time from the commit of a change in the database until every worker served it.",
            visible.BOUNDS_S,
            visible.counts,
            visible.sum_s,
        )
        yield build_info()

    def _workers(self) -> Iterator[Metric]:
        pool = self._supervisor.pool
        up = GaugeMetricFamily(
            "ocspd_worker_up", "Whether the worker is serving requests.", labels=["worker"]
        )
        generation = GaugeMetricFamily(
            "ocspd_worker_index_generation", "Index generation the worker is serving.", labels=["worker"]
        )
        restarts = CounterMetricFamily(
            "ocspd_worker_restarts",
            "Number of times the worker was restarted after it died.",
            labels=["worker"],
        )
        behind = GaugeMetricFamily(
            "ocspd_worker_behind",
            "Whether the worker could not yet use the newest index or accept connections.",
            labels=["worker"],
        )
        for slot in pool.slots:
            worker = [str(slot.worker_index)]
            behind.add_metric(worker, int(bool(slot.trouble) or pool.is_behind(slot)))
            up.add_metric(worker, int(slot.ready))
            generation.add_metric(worker, slot.generation)
            restarts.add_metric(worker, slot.restarts)
        yield from (up, generation, behind, restarts)
        yield GaugeMetricFamily(
            "ocspd_worker_max_connections",
            "Maximum number of connections of each worker.",
            value=pool.settings.max_connections,
        )
        yield _labelled(
            "ocspd_duty_restarts",
            "Number of times a duty of the supervisor failed because of a bug and was restarted.",
            "duty",
            ((duty, self._supervisor.restarts[duty]) for duty in ("source", "index", "service")),
        )
        yield GaugeMetricFamily(
            "ocspd_ready", "Whether /readyz reports ready.", value=int(not self._supervisor.why_not_ready())
        )

    def _pulling(self) -> Iterator[Metric]:
        source = self._supervisor.source
        if not isinstance(source, PulledIndex):
            return
        stats = source.stats
        yield GaugeMetricFamily(
            "ocspd_index_pull_up",
            "Whether the last check of the remote index succeeded.",
            value=int(stats.up),
        )
        yield CounterMetricFamily(
            "ocspd_index_pull_failures", "Failed checks of the remote index.", value=stats.failures
        )
        yield GaugeMetricFamily(
            "ocspd_index_pull_success_timestamp_seconds",
            "Time of the last successful check of the remote index.",
            value=stats.succeeded_at,
        )
        yield GaugeMetricFamily(
            "ocspd_index_remote_generation",
            "Generation of the remote index; -1 until it has been read.",
            value=stats.generation,
        )
        yield CounterMetricFamily(
            "ocspd_index_pulled_bytes",
            "Bytes of segments downloaded from the remote index.",
            value=stats.bytes,
        )

    def _index(self) -> Iterator[Metric]:
        index = self._supervisor.index
        yield GaugeMetricFamily(
            "ocspd_source_up",
            "Whether the current contents of the file, table, index directory or URL are being served.",
            value=int(self._supervisor.source_up),
        )
        yield GaugeMetricFamily(
            "ocspd_index_entries",
            "Responses in the index; one that is in several segments counts several times.",
            value=index.entries,
        )
        yield GaugeMetricFamily("ocspd_index_segments", "Segments in the index.", value=index.segments)
        yield GaugeMetricFamily("ocspd_index_generation", "Generation of the index.", value=index.generation)
        yield CounterMetricFamily(
            "ocspd_index_load_failures",
            "Generations that the supervisor or a worker could not use.",
            value=index.refused + self._supervisor.pool.refused,
        )
        if index.manifest is not None:
            yield GaugeMetricFamily(
                "ocspd_index_created_timestamp_seconds",
                "Time when the index in use was published.",
                value=index.manifest.published_at,
            )
        labels = ["issuer", "certid_hash"]  # the issuer by its key hash under that algorithm, in hex
        entries = GaugeMetricFamily("ocspd_index_issuer_entries", "Responses of the issuer.", labels=labels)
        expiry = GaugeMetricFamily(
            "ocspd_index_first_expiry_timestamp_seconds",
            "Time when the issuer's first response expires, including replaced ones that are still stored.",
            labels=labels,
        )
        oldest = GaugeMetricFamily(
            "ocspd_index_oldest_this_update_timestamp_seconds",
            "thisUpdate of the issuer's oldest response, including replaced ones that are still stored.",
            labels=labels,
        )
        expired = GaugeMetricFamily(
            "ocspd_index_expired_ratio",
            "Share of the issuer's responses that have expired, 0 to 1.",
            labels=labels,
        )
        now_s = self._supervisor.clock.now().timestamp()
        for issuer in index.issuers:
            values = [issuer.key_hash, issuer.hash_name]
            expired.add_metric(values, issuer.expired(now_s))
            entries.add_metric(values, issuer.entries)
            oldest.add_metric(values, issuer.this_update_min)
            if issuer.next_update_min != NO_NEXT_UPDATE:
                expiry.add_metric(values, issuer.next_update_min)
        yield from (entries, expiry, oldest, expired)


def _from_counters(counts: dict[str, int]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "ocspd_requests", "Requests answered, by method and outcome.", labels=["method", "outcome"]
    )
    for method in METHODS:
        for outcome in OUTCOMES:
            requests.add_metric([method, outcome], counts[f"requests_{method}_{outcome}"])
    yield requests
    yield _labelled(
        "ocspd_requests_certid",
        "Requests by CertID hash algorithm.",
        "hash",
        ((name, counts[f"certid_{name}"]) for name in HASHES),
    )
    yield CounterMetricFamily(
        "ocspd_requests_nonce", "Requests with a nonce (nonces are ignored).", value=counts["request_nonce"]
    )
    yield CounterMetricFamily(
        "ocspd_requests_multiple",
        "Requests for several certificates (only the first is answered).",
        value=counts["request_multiple"],
    )
    yield _labelled(
        "ocspd_slow_path_requests",
        "Requests handed to the slow path, by cause.",
        "cause",
        ((cause, counts[f"slow_{cause}"]) for cause in SLOW_CAUSES),
    )
    yield CounterMetricFamily(
        "ocspd_received_bytes",
        "Bytes of requests received, including HTTP headers.",
        value=counts["received_bytes"],
    )
    yield CounterMetricFamily(
        "ocspd_sent_bytes", "Bytes of replies sent, including HTTP headers.", value=counts["sent_bytes"]
    )
    yield _latency(counts)
    opened, closed = counts["connections_opened"], counts["connections_closed"]
    yield CounterMetricFamily("ocspd_connections", "Connections accepted.", value=opened)
    yield GaugeMetricFamily("ocspd_connections_open", "Connections open now.", value=max(opened - closed, 0))
    yield CounterMetricFamily(
        "ocspd_connections_refused",
        "Connections refused because of the connection limit.",
        value=counts["connections_refused"],
    )
    yield _labelled(
        "ocspd_connection_timeouts",
        "Connections closed because the client took too long, by phase.",
        "phase",
        ((phase, counts[f"timeout_{phase}"]) for phase in _TIMEOUTS),
    )


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values:
        family.add_metric([value], count)
    return family


def _latency(counts: dict[str, int]) -> HistogramMetricFamily:
    return _histogram(
        "ocspd_fast_path_latency_seconds",
        "Time from reading a request to writing its reply, sampled on every 16th read of the fast path.",
        [bound / 1e9 for bound in LATENCY_BOUNDS_NS],
        [counts[f"latency_bucket_{bucket}"] for bucket in range(len(LATENCY_BOUNDS_NS) + 1)],
        counts["latency_sum_ns"] / 1e9,
    )


def _histogram(
    name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> HistogramMetricFamily:
    """Return a histogram from separate bucket counts; Prometheus expects cumulative ones."""
    labels = [*map(repr, bounds), "+Inf"]
    return HistogramMetricFamily(
        name, text, buckets=list(zip(labels, accumulate(counts), strict=True)), sum_value=total
    )
