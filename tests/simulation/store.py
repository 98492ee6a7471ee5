"""An object store whose requests are lost, come late, or leave half an object behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError
from ocspd.index.store import MissingObjectError
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

_REQUEST_S = 30.0
_PIECE = 4096


@dataclass(slots=True)
class Store:
    """An `ObjectStore`."""

    rng: random.Random
    on_write: Callable[[str, bytes, Mapping[str, int]], None]
    """Told of every object that arrives, and the sizes of all."""
    takes_late: Callable[[], bool]
    """Whether what was given up long ago may still arrive: readers must be able to tell that it is old."""
    url: str = "s3://simulated/index"
    writable: bool = True
    failing: float = 0.0
    """The share of requests that go wrong in one way or another."""
    _objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    _writes: int = 0

    def check(self) -> None:
        return

    def create(self) -> None:
        return

    async def read(
        self, name: str, *, limit: int, unless: str | None = None
    ) -> tuple[bytes, str | None] | None:
        await self._request(name)
        data, etag = self._object(name)
        if etag == unless:
            return None
        if len(data) > limit:
            raise IndexFileError(f"{self.url}/{name}: longer than {limit} octets")
        await self._request(name)
        return data, etag

    async def size(self, name: str) -> int | None:
        await self._request(name)
        found = self._objects.get(name)
        return None if found is None else len(found[0])

    async def stream(self, name: str, offset: int = 0) -> AsyncGenerator[memoryview, None]:
        await self._request(name)
        data, _ = self._object(name)
        for start in range(offset, len(data), _PIECE):
            yield memoryview(data[start : start + _PIECE])
            await self._request(name)

    async def write(self, name: str, content: bytes | Path) -> None:
        data = await asyncio.to_thread(content.read_bytes) if isinstance(content, Path) else content
        if self.rng.random() >= self.failing:
            try:
                await self._request(name)
            except asyncio.CancelledError:
                if self.rng.random() < 0.5:  # it is on its way
                    self._put(name, data)
                raise
            self._put(name, data)
            return
        match self.rng.choice(["lost", "unheard", "half", "late"]):
            case "unheard":  # done, but the answer is lost
                self._put(name, data)
            case "half":
                self._put(name, data[: self.rng.randrange(len(data))])
            case "late":
                asyncio.get_running_loop().call_later(
                    2 * _REQUEST_S * self.rng.random(), partial(self._put, name, data, late=True)
                )
                try:
                    async with time_limit(_REQUEST_S):
                        await asyncio.Event().wait()
                except TimeoutError:
                    pass
            case _:
                pass
        raise IndexFileError(f"{self.url}/{name}: the store cannot be used")

    async def names(self) -> list[str]:
        await self._request("")
        return sorted(self._objects)

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            await self._request(name)
            self._objects.pop(name, None)

    async def _request(self, name: str) -> None:
        await asyncio.sleep(0.005 + 0.3 * self.rng.random() ** 4)
        if self.rng.random() < self.failing:
            raise IndexFileError(f"{self.url}/{name}: the store cannot be used")

    def _object(self, name: str) -> tuple[bytes, str]:
        try:
            return self._objects[name]
        except KeyError:
            raise MissingObjectError(f"{self.url}/{name}: there is no such object") from None

    def _put(self, name: str, data: bytes, *, late: bool = False) -> None:
        if late and not self.takes_late():
            return
        self._writes += 1
        self._objects[name] = data, str(self._writes)
        if not late:  # what it names may have been removed meanwhile; readers refuse it as old
            self.on_write(name, data, {each: len(found) for each, (found, _) in self._objects.items()})
