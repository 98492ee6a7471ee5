"""The responder's endpoints for operators, on a listener of their own.

GET or HEAD of:

    /metrics   Prometheus text format
    /livez     200 as long as the supervisor's event loop runs
    /healthz   the same, with the state of workers and index as JSON
    /readyz    200 when clients may be sent here, otherwise 503 with the reason in one line

It must not be reachable for clients: it binds to 127.0.0.1 by default.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from ocspd.responder.metrics import ResponderCollector

if TYPE_CHECKING:
    from ocspd.responder.supervisor import Supervisor

_TEXT = "text/plain; charset=utf-8"


class Admin:
    """The request handler for `ops.server.HTTPServer`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._registry = CollectorRegistry()
        self._registry.register(ResponderCollector(supervisor))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Reply to one request."""
        if request.method not in {"GET", "HEAD"}:
            return _reply(405, "only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return _reply(200, generate_latest(self._registry).decode(), content_type=CONTENT_TYPE_LATEST)
            case "/livez":
                return _reply(200, "ok\n")
            case "/readyz":
                reason = self._supervisor.why_not_ready()
                return _reply(503 if reason else 200, f"{reason or 'ok'}\n")
            case "/healthz":
                return self._health()
        return _reply(404, "available: /metrics, /livez, /readyz and /healthz\n")

    def _health(self) -> web.Response:
        supervisor = self._supervisor
        index = supervisor.index
        state = {
            "ready": not supervisor.why_not_ready(),
            "source_up": supervisor.source_up,
            "why_not_ready": supervisor.why_not_ready(),
            "index": {
                "directory": str(index.directory.path),
                "generation": index.generation,
                "entries": index.entries,
                "segments": index.segments,
                "refused": index.refused,
                "complaint": index.complaint,
                "published_at": None if index.manifest is None else index.manifest.published_at,
            },
            "workers": [
                {
                    "ready": slot.ready,
                    "generation": slot.generation,
                    "restarts": slot.restarts,
                    "trouble": slot.trouble,
                }
                for slot in supervisor.pool.slots
            ],
        }
        return _reply(200, json.dumps(state) + "\n", content_type="application/json")


def _reply(
    status: int, text: str, *, content_type: str = _TEXT, headers: dict[str, str] | None = None
) -> web.Response:
    fields = {"Content-Type": content_type, "Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=text.encode(), headers=fields)
