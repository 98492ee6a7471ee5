"""Drills: the faults of a database that last too long for the test suite, through the installed programs.

    python -m bench.faults [D1 D2 D3 D4 kill power ...]

Starts a PostgreSQL server of its own on a Unix socket, `ocspd refresh` following it and `ocspd ocspserve` on
the index. Each drill does something to the server or the signer while certificates are revoked by plain SQL,
and sends requests to the responder as a client does. Everything runs under the oracle of the tests: a "good"
after the row was revoked, or a response that goes back in time, ends the run with exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from bench.servers import ocspd_command, ocspd_program
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from tests.certdb.raw import execute
from tests.faults.cluster import Cluster, clusters
from tests.faults.oracle import Oracle
from tests.pki.chain import make_chain
from tests.ports import free_port

from ocspd._der import parse_response
from ocspd.certdb import DBConfig
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from ocspd.pki.ocsp import OCSPSigner

GOOD, REVOKED = 0, 1
CERTIFICATES = 2_000
_INSERT = """
INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason,
    expiry, revoked_at, pem)
SELECT convert_to(n::text, 'UTF8'), convert_to('{aki}', 'UTF8'), '', 'good', 0, now() + interval '30 days',
       '0001-01-01 00:00:00+00', '-' FROM generate_series({first}, {last}) AS n
"""


@dataclass
class Place:
    """Everything a drill works on."""

    cluster: Cluster
    folder: Path
    signer: OCSPSigner
    oracle: Oracle
    admin: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    refresh: subprocess.Popen[bytes] | None = None
    next_serial: int = 100

    @property
    def url(self) -> str:
        return f"postgres://postgres@/postgres?host={self.cluster.path}&sslmode=disable"

    @property
    def config(self) -> DBConfig:
        return DBConfig("postgres", self.url)

    def start_signer(self) -> None:
        """Start the signer, or start it again."""
        files = [self.folder / name for name in ("db.json", "ca.pem", "ocsp.pem", "ocsp-key.pem", "index")]
        flags = ["-db-config", "-ca", "-responder", "-responder-key", "-index"]
        words = [word for pair in zip(flags, files, strict=True) for word in pair]
        with (self.folder / "refresh.log").open("ab") as log:
            self.refresh = subprocess.Popen(
                [ocspd_program(), "refresh", *words, "-admin-port", str(self.admin)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_signer(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the signer and its signing processes."""
        assert self.refresh is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.refresh.pid, number)
        self.refresh.wait(60)

    def status(self, serial: int) -> int | None:
        """Send a request as a client does; None without a reply."""
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            *_hashes(self.signer), serial, hashes.SHA1()
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/",
            builder.build().public_bytes(serialization.Encoding.DER),
            {"Content-Type": "application/ocsp-request"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            body = response.read()
        return None if len(body) == 5 else parse_response(body).status

    def says_revoked(self, serial: int) -> bool:
        """Whether the responder returns revoked."""
        return self.status(serial) == REVOKED

    def database_is_down(self) -> bool:
        """Whether the signer reports that its database does not respond."""
        return self.gauge("ocspd_signer_database_up") == 0

    def gauge(self, name: str) -> float:
        """Return a metric of the signer; -1 when it does not respond."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as response:
                text = response.read().decode()
        except OSError:
            return -1
        return next(
            (float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), -1
        )

    async def until(self, condition: Callable[[], bool], what: str, limit_s: float = 120) -> float:
        """Wait, and return how long."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > limit_s:
                raise RuntimeError(f"not within {limit_s:g} s: {what}")
            await asyncio.sleep(0.02)
        return time.monotonic() - begun

    async def revoke(self, limit_s: float = 120) -> float:
        """Revoke the next certificate; return the seconds from the commit to a client's response."""
        serial = self.next_serial
        self.next_serial += 1
        with self.oracle.committing(0, serial, ["revoked"]):
            await execute(self.config, revocation(serial))
        return await self.until(lambda: self.status(serial) == REVOKED, f"{serial} is revoked", limit_s)


def revocation(serial: int) -> str:
    return (
        "UPDATE certificates SET status = 'revoked', reason = 1, revoked_at = now() "
        f"WHERE serial_number = convert_to('{serial}', 'UTF8')"
    )


def _hashes(signer: OCSPSigner) -> tuple[bytes, bytes]:
    from ocspd.pki.certid import issuer_hashes  # noqa: PLC0415

    return issuer_hashes(signer.issuer, "sha1")


async def d1(place: Place) -> dict[str, float]:
    """Connections killed, the server stopped for 6 s."""
    for _ in range(5):
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ocspd'"
        await execute(place.config, cut)
    killed = await place.revoke()
    place.cluster.stop("fast")
    down = await place.until(place.database_is_down, "the gauge")
    await asyncio.sleep(6)
    place.cluster.start()
    return {"gauge 0 after": down, "after kill": killed, "after return": await place.revoke()}


async def d2(place: Place) -> dict[str, float]:
    """The server frozen for 30 s, the table locked for 30 s."""
    place.cluster.signal(signal.SIGSTOP)
    frozen = await place.until(place.database_is_down, "the gauge of a frozen server")
    await asyncio.sleep(max(30 - frozen, 0))
    place.cluster.signal(signal.SIGCONT)
    thawed = await place.revoke()
    holder = await asyncpg.connect(place.url)
    await holder.execute("BEGIN; LOCK TABLE certificates")
    locked = await place.until(place.database_is_down, "the gauge of a locked table")
    await asyncio.sleep(max(30 - locked, 0))
    serial = place.next_serial
    place.next_serial += 1
    with place.oracle.committing(0, serial, ["revoked"]):
        await holder.execute(revocation(serial))
        await holder.execute("COMMIT")
    free = await place.until(lambda: place.status(serial) == REVOKED, "what the holder of the lock did")
    await holder.close()
    return {"gauge 0, frozen": frozen, "thawed": thawed, "gauge 0, locked": locked, "unlocked": free}


async def d3(place: Place) -> dict[str, float]:
    """Transactions left open, in two phases, and committed out of order; others pass meanwhile."""
    open_ones = [await asyncpg.connect(place.url) for _ in range(8)]
    serials = list(range(place.next_serial, place.next_serial + 8))
    place.next_serial += 8
    for connection, serial in zip(open_ones, serials, strict=True):
        await connection.execute("BEGIN; SAVEPOINT one")
        await connection.execute(revocation(serial))
    passed = await place.revoke()
    await asyncio.sleep(10)
    order = list(zip(open_ones, serials, strict=True))
    random.Random(3).shuffle(order)
    worst = 0.0
    for connection, serial in order:
        with place.oracle.committing(0, serial, ["revoked"]):
            await connection.execute("COMMIT")
        worst = max(worst, await place.until(partial(place.says_revoked, serial), "a late commit"))
        await connection.close()
    return {"others": passed, "late commits, worst": worst}


async def d4(place: Place) -> dict[str, float]:
    """A million certificates imported in one transaction, in the outbox all at once, and revocations."""
    importer = await asyncpg.connect(place.url)
    await importer.execute("BEGIN")
    first = 1_000_000
    work = asyncio.create_task(
        importer.execute(_INSERT.format(aki=place.signer.aki, first=first, last=first + 999_999))
    )
    during = [await place.revoke()]
    while not work.done():
        during.append(await place.revoke())
    await importer.execute("COMMIT")
    behind = [await place.revoke() for _ in range(20)]
    inside = first + 777_777
    with place.oracle.committing(0, inside, ["revoked"]):
        await execute(place.config, revocation(inside))
    own = await place.until(lambda: place.status(inside) == REVOKED, "one of the million")
    await importer.close()
    return {"while importing, worst": max(during), "behind a million, worst": max(behind), "one of them": own}


async def kill(place: Place) -> dict[str, float]:
    """The signer killed 10 times while revocations come."""
    chosen = random.Random(1)
    for _ in range(10):
        serials = list(range(place.next_serial, place.next_serial + 20))
        place.next_serial += 20
        for serial in serials:
            with place.oracle.committing(0, serial, ["revoked"]):
                await execute(place.config, revocation(serial))
            if serial == serials[chosen.randrange(20)]:
                place.kill_signer()
                place.start_signer()
        for serial in serials:
            await place.until(partial(place.says_revoked, serial), f"{serial} after a kill")
    return {"after the last kill": await place.revoke()}


async def power(place: Place) -> dict[str, float]:
    """The server stopped as by a power cut, and the signer with it, while revocations are committed."""
    chosen = random.Random(2)
    for number in range(5):
        for _ in range(chosen.randrange(1, 15)):
            serial = place.next_serial
            place.next_serial += 1
            with place.oracle.committing(0, serial, ["revoked"]):
                await execute(place.config, revocation(serial))
        place.cluster.stop("immediate")
        if number % 2:
            place.kill_signer()
            place.start_signer()
        place.cluster.start()
        await place.revoke()
    for serial in range(100, place.next_serial):
        await place.until(partial(place.says_revoked, serial), f"{serial} after a power cut")
    return {"after the last cut": await place.revoke()}


DRILLS: dict[str, Callable[[Place], Coroutine[None, None, dict[str, float]]]] = {
    "D1": d1,
    "D2": d2,
    "D3": d3,
    "D4": d4,
    "kill": kill,
    "power": power,
}


@contextlib.contextmanager
def prepared(bound_s: float) -> Iterator[Place]:
    """Start everything, and stop it in the end."""
    chain = make_chain()
    signer = chain.signer(clock=SystemClock())
    with clusters(1) as (cluster,), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = Place(cluster, folder, signer, Oracle([signer.issuer], bound_s))
        cluster.make()
        cluster.start()
        pem = serialization.Encoding.PEM
        (folder / "ca.pem").write_bytes(signer.issuer.public_bytes(pem))
        (folder / "ocsp.pem").write_bytes(signer.responder.public_bytes(pem))
        (folder / "ocsp-key.pem").write_bytes(
            chain.responder_key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / "db.json").write_text(json.dumps({"driver": "postgres", "data_source": place.url}))
        subprocess.run([ocspd_program(), "db", "up", "-db-config", folder / "db.json"], check=True)
        asyncio.run(execute(place.config, _INSERT.format(aki=signer.aki, first=1, last=CERTIFICATES)))
        place.start_signer()
        served = None
        try:
            manifest = folder / "index" / "manifest.json"
            asyncio.run(place.until(manifest.exists, "the first pass", 400))
            served = subprocess.Popen(
                ocspd_command(folder / "index", place.port, workers=1),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            asyncio.run(place.until(partial(_answers, place), "the responder"))
            yield place
        finally:
            if served is not None:
                served.terminate()
                served.wait(30)
            place.kill_signer(signal.SIGTERM)


def _answers(place: Place) -> bool:
    try:
        return place.status(1) == GOOD
    except OSError:
        return False


def main() -> int:
    """Run the drills given by name, or all of them."""
    parser = argparse.ArgumentParser(prog="bench.faults", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("drills", nargs="*", choices=[[], *DRILLS], help="which ones (all)")
    parser.add_argument(
        "-b", "--bound", type=float, default=60, help="seconds within which a response has to arrive"
    )
    arguments = parser.parse_args()
    failed = False
    with prepared(arguments.bound) as place:
        for name in arguments.drills or DRILLS:
            place.oracle = Oracle([place.signer.issuer], arguments.bound)
            directory = IndexDirectory(place.folder / "index")
            try:
                with place.oracle.watching(directory):
                    figures = asyncio.run(DRILLS[name](place))
            except RuntimeError as err:
                failed = True
                print(f"{name}: {err}", flush=True)
                continue
            problems = place.oracle.violations()
            failed = failed or bool(problems)
            times = ", ".join(f"{what} {value:.2f} s" for what, value in figures.items())
            print(f"{name}: {'held' if not problems else 'NOT HELD'}; {times}", flush=True)
            for problem in problems[:10]:
                print("   ", problem)
        log = (place.folder / "refresh.log").read_text()
        print(f"the signer's log has {len(log.splitlines())} lines, {log.count('Traceback')} tracebacks")
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"bench.faults: {error}")
