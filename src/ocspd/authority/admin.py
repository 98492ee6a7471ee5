"""An authority's endpoints for operators: /metrics, /livez, /readyz and /healthz on a listener of their own.

/livez shows that the process responds. /readyz and /healthz are 503 when a promise cannot be kept: there is
no usable CA key, no signing process runs, the database does not respond, the audit log cannot be written, or
the CRL does not follow the database or has expired. Their body names what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ocspd.authority.api.traffic import BOUNDS_S
from ocspd.errors import CodedError
from ocspd.ops.admin import AdminEndpoints, reply
from ocspd.ops.exposition import build_info
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import web

    from ocspd.authority.api.endpoints import Backend
    from ocspd.authority.api.traffic import Traffic
    from ocspd.authority.audit.log import AuditLog
    from ocspd.clock import Clock

DATABASE_S = 3.0
"""How long the database may take to respond before it counts as unavailable."""


class State(Protocol):
    """What an authority shows of itself; `service.AuthorityService` is one."""

    @property
    def backend(self) -> Backend:
        """What the endpoints work with at present."""
        ...

    @property
    def open_endpoints(self) -> tuple[str, ...]:
        """The endpoints that change something and demand no authentication."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What was replied."""
        ...


class AuthorityCollector(Collector):
    """Collects the metrics on each scrape; holds no state of its own."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._traffic()
        yield self._signer()
        yield GaugeMetricFamily(
            "ocspd_authority_open_endpoints",
            "Endpoints that change something and demand no authentication.",
            value=len(self._state.open_endpoints),
        )
        yield self._expiry()
        yield from self._audit()
        yield from self._crl()
        yield build_info()

    def _traffic(self) -> Iterator[Metric]:
        traffic = self._state.traffic
        replies = CounterMetricFamily(
            "ocspd_authority_replies", "Replies by endpoint and HTTP status.", labels=["endpoint", "status"]
        )
        for (endpoint, status), count in sorted(traffic.replies.items()):
            replies.add_metric([endpoint, str(status)], count)
        yield replies
        refusals = CounterMetricFamily(
            "ocspd_authority_refusals",
            "Requests that were refused or failed, by endpoint and the code in CFSSL's error.",
            labels=["endpoint", "code"],
        )
        for (endpoint, code), count in sorted(traffic.refusals.items()):
            refusals.add_metric([endpoint, str(code)], count)
        yield refusals
        taken = HistogramMetricFamily(
            "ocspd_authority_reply_duration_seconds",
            "Time from the head of a request to its reply.",
            labels=["endpoint"],
        )
        for endpoint, durations in sorted(traffic.durations.items()):
            total, buckets = 0, []
            for bound, count in zip(BOUNDS_S, durations.buckets, strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
            taken.add_metric([endpoint], buckets=buckets, sum_value=durations.sum_s)
        yield taken
        for name, text, value in (
            ("issued_certificates", "Certificates returned by sign, authsign and newcert.", traffic.issued),
            ("revocations", "Revocations accepted by revoke.", traffic.revoked),
        ):
            yield CounterMetricFamily(f"ocspd_authority_{name}", text, value=value)

    def _signer(self) -> Metric:
        return GaugeMetricFamily(
            "ocspd_authority_signer_up",
            "Whether there is a signer for certificates, here or remote, that can work.",
            value=int(not _signer_trouble(self._state.backend)),
        )

    def _expiry(self) -> Metric:
        backend = self._state.backend
        expiry = GaugeMetricFamily(
            "ocspd_authority_not_after_timestamp_seconds",
            "Time when a certificate that signs expires.",
            labels=["certificate"],
        )
        if backend.crl_signer is not None:
            expiry.add_metric(["ca"], backend.crl_signer.certificate.not_valid_after_utc.timestamp())
        if backend.ocsp_signer is not None:
            end = backend.ocsp_signer.responder.not_valid_after_utc.timestamp()
            expiry.add_metric(["responder"], end)
        return expiry

    def _audit(self) -> Iterator[Metric]:
        log = self._log
        if log is None:
            return
        counts = log.counts
        yield GaugeMetricFamily(
            "ocspd_authority_audit_up", "Whether the audit log can be written.", value=int(not log.trouble)
        )
        for name, text, value in (
            ("entries", "Entries in the audit log since the start.", float(counts.entries)),
            ("writes", "Writes to the audit log; entries that wait share one.", float(counts.groups)),
            ("write_seconds", "Time spent in writes to the audit log.", counts.seconds),
            ("failures", "Requests that failed as they could not be logged.", float(counts.failed)),
        ):
            yield CounterMetricFamily(f"ocspd_authority_audit_{name}", text, value=value)

    @property
    def _log(self) -> AuditLog | None:
        ledger = self._state.backend.ledger
        return None if ledger is None else ledger.log

    def _crl(self) -> Iterator[Metric]:
        crls = self._state.backend.crls
        if crls is None:
            return
        yield GaugeMetricFamily(
            "ocspd_authority_crl_up", "Whether the CRL follows the database.", value=int(not crls.trouble)
        )
        yield CounterMetricFamily("ocspd_authority_crls", "Complete CRLs signed.", value=crls.signed)
        yield GaugeMetricFamily(
            "ocspd_authority_crl_held_revocations",
            "Certificates kept on the CRL although they are not revoked in a database that replaced another.",
            value=crls.held,
        )
        crl = crls.complete
        if crl is None:
            return
        for name, text, value in (
            ("entries", "Certificates on the CRL.", crl.entries),
            ("bytes", "Size of the CRL.", len(crl.der)),
            ("this_update_timestamp_seconds", "thisUpdate of the CRL.", crl.this_update.timestamp()),
            ("next_update_timestamp_seconds", "nextUpdate of the CRL.", crl.next_update.timestamp()),
        ):
            yield GaugeMetricFamily(f"ocspd_authority_crl_{name}", text, value=value)


def _signer_trouble(backend: Backend) -> str:
    if backend.signer is None:
        return "there is none, so nothing can be issued; the log says why"
    return backend.signer.trouble


class AuthorityAdmin(AdminEndpoints):
    """The endpoints of an authority."""

    def __init__(self, state: State, clock: Clock) -> None:
        super().__init__(AuthorityCollector(state, clock))
        self._state = state
        self._clock = clock

    async def readiness(self) -> web.Response:
        """Reply 503 with a line for each part that does not work."""
        broken = [f"{part}: {why}" async for part, why in self._broken()]
        return reply(503 if broken else 200, "\n".join([*(broken or ["ok"]), ""]))

    async def _broken(self) -> AsyncIterator[tuple[str, str]]:
        """Yield what does not work, and why."""
        backend = self._state.backend
        if trouble := _signer_trouble(backend):
            yield "signer", trouble
        if backend.db is not None:
            try:
                async with time_limit(DATABASE_S):
                    await backend.db.find_certificates(0)
            except CodedError as err:
                yield "database", err.message
            except TimeoutError:
                yield "database", f"{backend.db.name} does not respond"
        log = None if backend.ledger is None else backend.ledger.log
        if log is not None and log.trouble:
            yield "audit log", log.trouble
        if (crls := backend.crls) is not None:
            if crls.trouble:
                yield "crl", crls.trouble
            if crls.complete is None:
                yield "crl", "not signed yet"
            elif crls.complete.next_update <= self._clock.now():
                yield "crl", f"expired on {crls.complete.next_update:%Y-%m-%d %H:%M:%S} UTC"
