"""The operators' side of a signer daemon: /metrics, /livez and /readyz on a listener of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ocspd.service.refreshing import LATENCY_BOUNDS_S
from ocspd.web.metrics import build_info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.service.generations import Generations
    from ocspd.service.refreshing import Refresher


class SignerCollector(Collector):
    """Collects one signer's metrics when asked; holds no state of its own."""

    def __init__(self, refresher: Refresher, generations: Generations) -> None:
        self._refresher = refresher
        self._generations = generations

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        stats = self._refresher.stats
        for name, up, what in (
            ("database", stats.database_up, "the database answers"),
            ("index", stats.index_up, "the index can be written"),
            ("keys", stats.signers_up, "certificates and keys on disk can be used"),
        ):
            yield GaugeMetricFamily(f"ocspd_signer_{name}_up", f"Whether {what}.", value=int(up))
        yield CounterMetricFamily(
            "ocspd_signer_changes", "Changed certificates answered.", value=stats.changes
        )
        yield CounterMetricFamily("ocspd_signer_signatures", "OCSP responses signed.", value=stats.answers)
        yield CounterMetricFamily("ocspd_signer_passes", "Passes over every certificate.", value=stats.passes)
        yield GaugeMetricFamily(
            "ocspd_signer_pass_end_timestamp_seconds", "When the last pass ended.", value=stats.pass_ended_at
        )
        yield GaugeMetricFamily(
            "ocspd_signer_pass_duration_seconds", "How long it took.", value=stats.pass_seconds
        )
        yield GaugeMetricFamily(
            "ocspd_signer_certificates", "Unexpired certificates it saw.", value=stats.pass_certificates
        )
        skipped = GaugeMetricFamily(
            "ocspd_signer_skipped_certificates", "Certificates it could not sign, by cause.", labels=["cause"]
        )
        skipped.add_metric(["foreign issuer"], stats.foreign)
        for cause, count in sorted(stats.skipped.items()):
            if cause != "foreign issuer":
                skipped.add_metric([cause], count)
        yield skipped
        yield self._latency()
        expiry = GaugeMetricFamily(
            "ocspd_signer_responder_not_after_timestamp_seconds",
            "When the responder certificate ends, by issuer subject.",
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
            "Size of the index's segments.",
            value=sum(ref.size_bytes for ref in segments),
        )
        yield build_info()

    def _publishing(self) -> Iterator[Metric]:
        labels = ["url"]  # from the configuration, without credentials
        up = GaugeMetricFamily(
            "ocspd_signer_publish_up", "Whether the last publication to the URL succeeded.", labels=labels
        )
        failures = CounterMetricFamily(
            "ocspd_signer_publish_failures", "Publications that did not succeed.", labels=labels
        )
        generation = GaugeMetricFamily(
            "ocspd_signer_published_generation", "Newest generation published to the URL.", labels=labels
        )
        moment = GaugeMetricFamily(
            "ocspd_signer_published_timestamp_seconds", "When it was published.", labels=labels
        )
        sent = CounterMetricFamily(
            "ocspd_signer_published_bytes", "Bytes of segments sent to the URL.", labels=labels
        )
        for place in self._refresher.stats.publishing:
            up.add_metric([place.url], int(place.up))
            failures.add_metric([place.url], place.failures)
            generation.add_metric([place.url], place.generation)
            moment.add_metric([place.url], place.published_at)
            sent.add_metric([place.url], place.sent_bytes)
        yield from (up, failures, generation, moment, sent)

    def _latency(self) -> Metric:
        stats = self._refresher.stats
        total, buckets = 0, []
        for bound in LATENCY_BOUNDS_S:
            total += stats.publish_latency_s[bound]
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        return HistogramMetricFamily(
            "ocspd_signer_publish_latency_seconds",
            "From the commit of a change to the publication of its answer.",
            buckets=buckets,
            sum_value=stats.publish_latency_sum_s,
        )


class SignerAdmin:
    """Handles the requests; for `web.server.HTTPServer`."""

    def __init__(self, refresher: Refresher, generations: Generations) -> None:
        self._refresher = refresher
        self._registry = CollectorRegistry()
        self._registry.register(SignerCollector(refresher, generations))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return _reply(405, "only GET and HEAD\n", allow="GET, HEAD")
        match request.path:
            case "/metrics":
                text = generate_latest(self._registry).decode()
                return _reply(200, text, content_type=CONTENT_TYPE_LATEST)
            case "/livez" | "/healthz":
                return _reply(200, "ok\n")
            case "/readyz":
                if not self._refresher.ready.is_set():
                    return _reply(503, "the first pass is running\n")
                if not self._refresher.stats.index_up:
                    return _reply(503, "the index cannot be written\n")
                return _reply(200, "ok\n")
        return _reply(404, "there is /metrics, /livez, /readyz and /healthz\n")


def _reply(
    status: int, text: str, *, content_type: str = "text/plain; charset=utf-8", allow: str = ""
) -> web.Response:
    fields = {"Content-Type": content_type, "Cache-Control": "no-store"}
    if allow:
        fields["Allow"] = allow
    return web.Response(status=status, body=text.encode(), headers=fields)
