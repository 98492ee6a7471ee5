from __future__ import annotations

import asyncio
from pathlib import Path

from ocspd._der import parse_response
from tests.native.pair import native
from tests.native.pipelines import CA, answers, service
from tests.native.storm import Storm

QUESTIONS = {CA.request(parse_response(der).serial): der for der in answers() if len(der) < 20_000}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def blow(seed: int) -> None:
    ours = service()
    async with native(ours) as port:
        before = descriptors()
        storm = Storm(port, QUESTIONS, seed)
        await storm.blow(clients=20, connections=15)
        async with asyncio.timeout(120):
            while ours.connections.current or ours.server.connections:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0)
        assert storm.happened["connections"] == 300
        assert min(storm.happened.values()) > 10  # every kind of ending, and responses
        assert ours.connections.buffered_bytes == 0
        assert descriptors() <= before
        assert not [name for name in ours.counts() if "internal_error" in name]


def test_every_reply_belongs_to_its_request_however_fast_descriptors_are_used_again(
    runner: asyncio.Runner,
) -> None:
    for seed in range(3):
        runner.run(blow(seed))
