"""The endpoints that every long-running role has for operators, on a listener of their own.

GET or HEAD of:

    /metrics   Prometheus text format
    /livez     200 as long as the event loop runs
    /readyz    200 when the role keeps its promises, otherwise 503; the text gives the reason
    /healthz   the same for a role without more to say

They must not be reachable for clients: the listener binds to 127.0.0.1 by default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

TEXT = "text/plain; charset=utf-8"


class AdminEndpoints(ABC):
    """The request handler for `ops.server.HTTPServer`; a role says when it is ready."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Reply to one request."""
        if request.method not in {"GET", "HEAD"}:
            return reply(405, "only GET and HEAD\n", allow="GET, HEAD")
        match request.path:
            case "/metrics":
                text = generate_latest(self._registry).decode()
                return reply(200, text, content_type=CONTENT_TYPE_LATEST)
            case "/livez":
                return reply(200, "ok\n")
            case "/readyz":
                return await self.readiness()
            case "/healthz":
                return await self.health()
        return reply(404, "available: /metrics, /livez, /readyz and /healthz\n")

    @abstractmethod
    async def readiness(self) -> web.Response:
        """Reply 200 when the role keeps its promises, otherwise 503 with what does not work."""

    async def health(self) -> web.Response:
        """Reply with the state of the role."""
        return await self.readiness()


def reply(status: int, text: str, *, content_type: str = TEXT, allow: str = "") -> web.Response:
    """Return a reply that nothing caches; `allow` lists the methods for a 405."""
    fields = {"Content-Type": content_type, "Cache-Control": "no-store"}
    if allow:
        fields["Allow"] = allow
    return web.Response(status=status, body=text.encode(), headers=fields)
