"""The responder's endpoints for operators (`ops.admin`); /healthz has the state of its workers as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ocspd.ops.admin import AdminEndpoints, reply
from ocspd.responder.metrics import ResponderCollector

if TYPE_CHECKING:
    from aiohttp import web

    from ocspd.responder.supervisor import Supervisor


class Admin(AdminEndpoints):
    """The endpoints of a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(ResponderCollector(supervisor))
        self._supervisor = supervisor

    async def readiness(self) -> web.Response:
        """Reply 200 when clients may be sent here, otherwise 503 with the reason in one line."""
        reason = self._supervisor.why_not_ready()
        return reply(503 if reason else 200, f"{reason or 'ok'}\n")

    async def health(self) -> web.Response:
        """Reply with the state of the workers and the index, in JSON."""
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
        return reply(200, json.dumps(state) + "\n", content_type="application/json")
