"""Running a server's main coroutine on uvloop; short verbs use asyncio's own loop, which starts faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run_uvloop(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end on a new uvloop loop and return its result."""
    return uvloop.run(main)
