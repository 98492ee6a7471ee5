"""Work that takes longer than an event loop may wait: it runs in a few threads.

Few, because Python runs one thread at a time: each busy one makes the loop wait some 5 ms for its turn. With
two, one slow request can run beside the others. What waits for other hosts has threads of its own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SMALL_BYTES = 8192
"""Reading this much takes less than a millisecond, no longer than handing it to a thread and back."""

MAX_OUTSIDE = 16
"""How many requests wait for other hosts at once; further ones wait for their turn."""

_threads = ThreadPoolExecutor(2, "offload")
_outside = ThreadPoolExecutor(MAX_OUTSIDE, "outside")


async def offload(work: Callable[[], T]) -> T:
    """Run a function in a thread and return its result, or raise what it raised."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


async def wait_outside(work: Callable[[], T]) -> T:
    """Run a function that mostly waits for other hosts; it has to have a deadline of its own."""
    return await asyncio.get_running_loop().run_in_executor(_outside, work)


async def read_input(read: Callable[[bytes], T], data: bytes) -> T:
    """Apply a reader to bytes that a client sent: here when they are few, otherwise in a thread."""
    if len(data) <= SMALL_BYTES:
        return read(data)
    return await offload(lambda: read(data))
