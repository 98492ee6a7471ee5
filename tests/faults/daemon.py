"""A signer at work inside the test, under the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory
from ocspd.pki.certid import issuer_hashes
from ocspd.signer.generations import Generations
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings
from tests.certdb.raw import execute
from tests.faults.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from ocspd._index import StoredResponse
    from ocspd.certdb import DBConfig
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.signer_parts import RefreshSource

SETTINGS = RefreshSettings(processes=1, pass_interval_s=3600, merge_interval_s=0.05, signers_interval_s=0.05)
WAIT_S = 120.0
"""How long a test waits before it calls something lost; what is in time the oracle says."""


class Signers:
    """A SignerSource whose next answer is set by the test."""

    def __init__(self, *signers: OCSPSigner) -> None:
        self.next: Sequence[OCSPSigner] | None = signers

    def load(self) -> Sequence[OCSPSigner] | None:
        """Hand out what was set, once."""
        signers, self.next = self.next, None
        return signers


@dataclass
class Signer:
    """A running signer, its index and its judge."""

    refresher: SignerDaemon
    generations: Generations
    source: Signers
    oracle: Oracle
    signers: Sequence[OCSPSigner]
    task: asyncio.Task[None]
    passes: int = field(default=0)

    def answer(self, serial: int, issuer: int = 0, name: str = "sha1") -> StoredResponse | None:
        """Return what the index answers now."""
        prefix = issuer_hashes(self.signers[issuer].issuer, name)
        return self.generations.directory.open().lookup(name, *prefix, serial)

    def status(self, serial: int, issuer: int = 0) -> int | None:
        """Return the status the index answers now, None for no answer."""
        found = self.answer(serial, issuer)
        return None if found is None else found.status

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something this signer is to do."""
        await until(condition, what, lambda: not self.task.done())

    async def another_pass(self) -> None:
        """Have a full pass made, and wait for its end."""
        before = self.refresher.stats.passes
        self.refresher._pass_wanted.set()
        await self.until(lambda: self.refresher.stats.passes > before, "a pass")


async def until(condition: Callable[[], bool], what: str, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert alive(), f"the signer has ended, before {what}"
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def signing(
    db: RefreshSource,
    path: Path,
    *signers: OCSPSigner,
    settings: RefreshSettings = SETTINGS,
    clock: Clock | None = None,
    bound_s: float = 10.0,
    oracle: Oracle | None = None,
    wait: bool = True,
    on_pass: Callable[[], None] | None = None,
) -> AsyncIterator[Signer]:
    """Run a signer until its first pass is done (not without `wait`), and judge in the end.

    `bound_s` is what a loaded machine may need, not what is promised.
    """
    clock = clock or SystemClock()
    directory = IndexDirectory(path)
    if oracle is None:
        oracle = Oracle([signer.issuer for signer in signers], bound_s)
    with directory.lock():
        generations = Generations(directory, clock)
        generations.published = lambda manifest: oracle.observe(directory, manifest)
        source = Signers(*signers)
        refresher = SignerDaemon(
            db=db, source=source, generations=generations, clock=clock, settings=settings, on_pass=on_pass
        )
        task = asyncio.create_task(refresher.run())
        signer = Signer(refresher, generations, source, oracle, signers, task)
        try:
            if wait:
                await signer.until(refresher.ready.is_set, "the first pass")
            yield signer
            assert not task.done()
            problems = oracle.violations()
            assert not problems, "\n".join(problems)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            generations.close()


class Rows:
    """Rows of `certificates`, written by plain SQL as any program might, with the oracle as witness."""

    def __init__(self, config: DBConfig) -> None:
        self._config = config

    def text(self, value: str) -> str:
        """Write a text for a text column of CFSSL's."""
        quoted = value.replace("'", "''")
        return f"convert_to('{quoted}', 'UTF8')" if self._config.driver == "postgres" else f"'{quoted}'"

    async def insert(
        self, serial: str, aki: str, status: str = "good", *, pem: str = "-", days: float = 30
    ) -> None:
        """Insert a row."""
        later = datetime.now(UTC) + timedelta(days=days)
        revoked = "2026-01-02 03:04:05+00:00" if status == "revoked" else "0001-01-01 00:00:00+00:00"
        await execute(
            self._config,
            "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason, "
            f"expiry, revoked_at, pem) VALUES ({self.text(serial)}, {self.text(aki)}, {self.text('')}, "
            f"{self.text(status)}, {int(status == 'revoked')}, '{later:%Y-%m-%d %H:%M:%S}+00:00', "
            f"'{revoked}', {self.text(pem)})",
        )

    async def says(self, serial: str, aki: str, status: str) -> None:
        """Change a row's status."""
        await self.set(serial, aki, f"status = {self.text(status)}")

    async def set(self, serial: str, aki: str, what: str) -> None:
        """Change a row."""
        await execute(self._config, f"UPDATE certificates SET {what} WHERE {self._where(serial, aki)}")

    async def delete(self, serial: str, aki: str) -> None:
        """Delete a row."""
        await execute(self._config, f"DELETE FROM certificates WHERE {self._where(serial, aki)}")

    def _where(self, serial: str, aki: str) -> str:
        return f"serial_number = {self.text(serial)} AND authority_key_identifier = {self.text(aki)}"
