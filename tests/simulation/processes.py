"""Signing processes that take a while to start and die when the seed says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from ocspd.errors import ProcessError
from ocspd.signer.signing import LocalSigning

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Sequence
    from datetime import datetime
    from types import TracebackType

    from ocspd.certdb.packed import PackedRows
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.signing import Chunk, IssuerRouter, Segments, Signed

T = TypeVar("T")


@dataclass(slots=True)
class Deaths:
    """What becomes of signing processes."""

    rng: random.Random
    failing: float = 0.0
    """The share of pieces of work a process dies of."""


class SimulatedPool:
    """A `Pool` of one process."""

    def __init__(
        self,
        signers: Sequence[OCSPSigner],
        *,
        deaths: Deaths,
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
    ) -> None:
        self._bench = LocalSigning(signers, segments, router)
        self._deaths = deaths
        self._dead = False

    async def __aenter__(self) -> Self:
        await asyncio.sleep(self._deaths.rng.random())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def sign(self, rows: PackedRows | Chunk, now: datetime) -> Signed:
        return await self._give(self._bench.sign(rows, now))

    async def finish(self) -> list[str]:
        return await self._give(self._bench.finish())

    async def _give(self, work: Awaitable[T]) -> T:
        """Do a piece of work. It may be done and yet nobody hears of it."""
        result = await work
        self._dead = self._dead or self._deaths.rng.random() < self._deaths.failing
        if self._dead:
            raise ProcessError("a signing process ended unexpectedly")
        return result

    def close(self) -> None:
        self._dead = True
