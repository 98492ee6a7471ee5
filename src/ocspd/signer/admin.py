"""A signer daemon's endpoints for operators: /metrics, /livez, /readyz and /healthz on their own listener.

/livez shows that the process responds; /readyz and /healthz name what does not work, and are 503 when
responses cannot be kept up to date: no database, no index, no key of an issuer, or changes left waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ocspd.ops.admin import AdminEndpoints, reply
from ocspd.ops.exposition import build_info
from ocspd.signer.health import PARTS
from ocspd.signer.signer_parts import LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from ocspd.signer.generations import Generations
    from ocspd.signer.refreshing import SignerDaemon


LAG_S = 10.0
"""A signer that is behind by more than this is not ready: ten times the bound promised for a revocation."""
_BROKEN = {
    "database": "the database does not respond",
    "feed": "the database does not record every change",
    "index": "the index cannot be written",
    "processes": "signing processes fail",
}


class SignerCollector(Collector):
    """Collects one signer's metrics on each scrape; holds no state of its own."""

    def __init__(self, daemon: SignerDaemon, generations: Generations) -> None:
        self._daemon = daemon
        self._generations = generations

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        stats = self._daemon.stats
        for name, part, what in (
            ("database", "database", "the database responds"),
            ("feed", "feed", "the database records every change"),
            ("index", "index", "the index can be written"),
            ("keys", "keys", "certificates and keys on disk can be used"),
            ("processes", "processes", "signing processes work"),
        ):
            yield GaugeMetricFamily(
                f"ocspd_signer_{name}_up", f"Whether {what}.", value=int(stats.health.up(part))
            )
        issuers = GaugeMetricFamily(
            "ocspd_signer_issuer_up", "Whether the signer of the issuer can sign.", labels=["issuer"]
        )
        for issuer in stats.responder_not_after:
            issuers.add_metric([issuer], int(issuer not in stats.failing))
        yield issuers
        yield GaugeMetricFamily(
            "ocspd_signer_lag_seconds",
            "How long changes have been waiting for a response.",
            value=stats.lag_s(self._daemon.now_s()),
        )
        yield CounterMetricFamily(
            "ocspd_signer_changes",
            "Changed certificates for which new responses were published.",
            value=stats.changes,
        )
        yield CounterMetricFamily("ocspd_signer_signatures", "OCSP responses signed.", value=stats.responses)
        yield CounterMetricFamily("ocspd_signer_passes", "Passes over all certificates.", value=stats.passes)
        yield GaugeMetricFamily(
            "ocspd_signer_pass_end_timestamp_seconds",
            "Time when the last pass ended.",
            value=stats.pass_ended_at,
        )
        yield GaugeMetricFamily(
            "ocspd_signer_pass_duration_seconds", "Duration of the last pass.", value=stats.pass_seconds
        )
        yield GaugeMetricFamily(
            "ocspd_signer_certificates",
            "Unexpired certificates in the last pass.",
            value=stats.pass_certificates,
        )
        skipped = GaugeMetricFamily(
            "ocspd_signer_skipped_certificates",
            "Certificates the last pass could not sign a response for, by cause.",
            labels=["cause"],
        )
        skipped.add_metric(["foreign issuer"], stats.foreign)
        for cause, count in sorted(stats.skipped.items()):
            if cause != "foreign issuer":
                skipped.add_metric([cause], count)
        yield skipped
        yield GaugeMetricFamily(
            "ocspd_signer_unreadable_certificates",
            "Certificates signed as unknown or revoked because their rows cannot be fully read.",
            value=stats.unreadable,
        )
        yield GaugeMetricFamily(
            "ocspd_signer_held_revocations",
            "Certificates kept revoked although they are not revoked in a database that replaced another.",
            value=stats.held,
        )
        yield self._latency()
        expiry = GaugeMetricFamily(
            "ocspd_signer_responder_not_after_timestamp_seconds",
            "Time when the responder certificate expires, by issuer subject.",
            labels=["issuer"],
        )
        for issuer, moment in stats.responder_not_after.items():
            expiry.add_metric([issuer], moment)
        yield expiry
        yield from self._publishing()
        segments = self._generations.segments
        yield GaugeMetricFamily("ocspd_signer_index_segments", "Segments of the index.", value=len(segments))
        yield GaugeMetricFamily(
            "ocspd_signer_index_bytes",
            "Size of the segments of the index.",
            value=sum(ref.size_bytes for ref in segments),
        )
        yield build_info()

    def _publishing(self) -> Iterator[Metric]:
        labels = ["url"]  # from the configuration, without credentials
        up = GaugeMetricFamily(
            "ocspd_signer_publish_up", "Whether the last publication to the URL succeeded.", labels=labels
        )
        failures = CounterMetricFamily(
            "ocspd_signer_publish_failures", "Failed publications to the URL.", labels=labels
        )
        generation = GaugeMetricFamily(
            "ocspd_signer_published_generation", "Newest generation published to the URL.", labels=labels
        )
        moment = GaugeMetricFamily(
            "ocspd_signer_published_timestamp_seconds",
            "Time of the last successful publication to the URL.",
            labels=labels,
        )
        sent = CounterMetricFamily(
            "ocspd_signer_published_bytes", "Bytes of segments uploaded to the URL.", labels=labels
        )
        for store in self._daemon.stats.publishing:
            up.add_metric([store.url], int(store.up))
            failures.add_metric([store.url], store.failures)
            generation.add_metric([store.url], store.generation)
            moment.add_metric([store.url], store.published_at)
            sent.add_metric([store.url], store.sent_bytes)
        yield from (up, failures, generation, moment, sent)

    def _latency(self) -> Metric:
        stats = self._daemon.stats
        total, buckets = 0, []
        for bound in LATENCY_BOUNDS_S:
            total += stats.publish_latency_s[bound]
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        return HistogramMetricFamily(
            "ocspd_signer_publish_latency_seconds",
            "Time from the commit of a change to the publication of its response.",
            buckets=buckets,
            sum_value=stats.publish_latency_sum_s,
        )


class SignerAdmin(AdminEndpoints):
    """The endpoints of a signer daemon."""

    def __init__(self, daemon: SignerDaemon, generations: Generations) -> None:
        super().__init__(SignerCollector(daemon, generations))
        self._daemon = daemon

    async def readiness(self) -> web.Response:
        """Report the state of each part, one per line; 503 when a promise to clients cannot be kept."""
        stats = self._daemon.stats
        broken: list[str] = []
        if not self._daemon.ready.is_set():
            broken.append("the first pass is running")
        lines = []
        for part in PARTS:
            trouble = stats.health.trouble(part)
            lines.append(f"{part}: {trouble or 'ok'}")
            if trouble and part != "keys":  # of keys the ones loaded before stay in use
                broken.append(_BROKEN[part])
        for issuer, why in stats.failing.items():
            lines.append(f"issuer {issuer}: {why}")
            broken.append(f"the signer of {issuer} cannot sign")
        lag_s = stats.lag_s(self._daemon.now_s())
        lines.append(f"lag: {lag_s:.1f} s")
        if lag_s > LAG_S:
            broken.append(f"changes have been waiting for {lag_s:.0f} s")
        return reply(503 if broken else 200, "\n".join([", ".join(broken) or "ok", *lines, ""]))
