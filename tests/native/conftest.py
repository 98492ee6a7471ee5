from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Run coroutines on both loops; fails when something went wrong that nobody waited for."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        unexpected: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda _, context: unexpected.append(context))
        yield runner
        assert unexpected == []
