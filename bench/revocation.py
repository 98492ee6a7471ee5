"""How long a revocation takes from its commit until every worker serves it, under full request load.

    python -m bench.revocation [--certificates 1000000] [--revocations 1000] [--rate 40] [--backlog 1000000]

One database with that many certificates, `ocspd refresh` following it, `ocspd ocspserve` with two workers
on the index, and wrk sending requests as fast as it can throughout. Revocations are committed one by one at
a steady rate, by plain SQL as by any writer; probes on connections to both workers ask about each
until all of them get revoked. The same is done for new certificates, until all of them get good.

With --backlog that many entries are put into the change feed (the outbox table, `ocspd_changes`) before the
first revocation: the signer works them off meanwhile, and only revocations are measured. `lag_s` is for how
long it had been behind at the end: 0 means that the backlog was gone before, so take a larger one.

Everything runs under the oracle of the fault tests, which looks at every generation and knows every tenth
revocation: a "good" too late, or an older response after a newer one, is printed and ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from bench.data import RequestSource, make_signer, serial_of, write_requests
from bench.servers import find, ocspd_command, ocspd_program, running
from cryptography.hazmat.primitives import serialization
from tests.faults.oracle import GOOD, REVOKED, Oracle
from tests.ports import free_port
from tests.postgres import create_database, running_server

from ocspd._der import parse_response
from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.clock import SystemClock
from ocspd.index.directory import IndexDirectory

if TYPE_CHECKING:
    from ocspd.pki.ocsp import OCSPSigner

PROBES = 8  # connections that ask; SO_REUSEPORT spreads them over the workers
PAUSE_S = 0.005
NOTED = 10
"""Of so many revocations the oracle hears of one: it looks each up in every generation."""
BOUND_S = 30.0
"""How late a revocation may be before the oracle objects; the percentiles say how late it was."""


class Probe:
    """One keep-alive connection to the responder."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._lock = asyncio.Lock()

    async def status(self, request: bytes) -> int | None:
        """Return the status in the response, None for unauthorized."""
        async with self._lock:
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        return None if length == 5 else parse_response(body).status


async def until_all(probes: list[Probe], request: bytes, status: int, deadline_s: float = 30) -> float:
    """Return the time when every probe has seen the status."""

    async def one(probe: Probe) -> float:
        while time.time() < deadline:
            if await probe.status(request) == status:
                return time.time()
            await asyncio.sleep(PAUSE_S)
        raise RuntimeError("a revocation was not visible within half a minute")

    deadline = time.time() + deadline_s
    return max(await asyncio.gather(*(one(probe) for probe in probes)))


def write_signer(directory: Path, signer: OCSPSigner) -> None:
    """Write ca.pem, ocsp.pem and ocsp-key.pem."""
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(signer.issuer.public_bytes(pem))
    (directory / "ocsp.pem").write_bytes(signer.responder.public_bytes(pem))
    (directory / "ocsp-key.pem").write_bytes(
        signer.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def fill(url: str, aki: str, count: int) -> None:
    """Insert certificates 0 to count - 1."""
    now = datetime.now(UTC)
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    connection = await asyncpg.connect(url)
    columns = ["serial_number", "authority_key_identifier", "ca_label", "status", "reason", "expiry"]
    columns += ["revoked_at", "pem"]
    for start in range(0, count, 100_000):
        await connection.copy_records_to_table(
            "certificates",
            columns=columns,
            records=[
                (
                    str(serial_of(number)).encode(),
                    aki.encode(),
                    b"",
                    b"good",
                    0,
                    now + timedelta(days=30),
                    zero,
                    b"-",
                )
                for number in range(start, min(start + 100_000, count))
            ],
        )
    await connection.close()


async def measure(  # noqa: PLR0913, PLR0917  (what runs and what is varied)
    url: str,
    port: int,
    signer: OCSPSigner,
    count: int,
    changes: int,
    rate: float,
    oracle: Oracle,
    *,
    issuing: bool,
) -> dict[str, list[float]]:
    """Revoke `changes` certificates and issue as many, at `rate` a second together; return the latencies.

    Every tenth revocation is noted for the oracle; without `issuing` there are revocations only.
    """
    probes = [Probe(port) for _ in range(PROBES)]
    for probe in probes:
        await probe.open()
    requests = RequestSource(signer)
    connection = await asyncpg.connect(url)
    latencies: dict[str, list[float]] = {"revoked": [], "issued": []}
    tasks = []

    async def watch(kind: str, number: int, status: int, committed: float) -> None:
        latencies[kind].append(await until_all(probes, requests.get(number), status) - committed)

    step = count // changes
    begun = time.time()
    for change in range(changes):
        await asyncio.sleep(max(0.0, begun + 2 * change / rate - time.time()))
        serial = str(serial_of(change * step)).encode()
        with ExitStack() as noting:
            if change % NOTED == 0:
                noting.enter_context(oracle.committing(0, serial_of(change * step), [REVOKED]))
            await connection.execute(
                "UPDATE certificates SET status = 'revoked', revoked_at = now(), reason = 1"
                " WHERE serial_number = $1",
                serial,
            )
        tasks.append(asyncio.create_task(watch("revoked", change * step, 1, time.time())))
        if not issuing:
            continue
        await asyncio.sleep(max(0.0, begun + (2 * change + 1) / rate - time.time()))
        await connection.execute(
            "INSERT INTO certificates (serial_number, authority_key_identifier, ca_label, status, reason,"
            " expiry, revoked_at, pem)"
            " VALUES ($1, $2, '', 'good', 0, now() + interval '30 days', to_timestamp(0), '-')",
            str(serial_of(count + change)).encode(),
            signer.aki.encode(),
        )
        tasks.append(asyncio.create_task(watch("issued", count + change, 0, time.time())))
    await asyncio.gather(*tasks)
    return {kind: values for kind, values in latencies.items() if values}


async def pile_up(url: str, entries: int) -> None:
    """Put that many entries into the change feed, in one transaction, about certificates there are."""
    connection = await asyncpg.connect(url)
    count = await connection.fetchval("SELECT count(*) FROM certificates")
    async with connection.transaction():
        for start in range(0, entries, count):
            await connection.execute(
                "INSERT INTO ocspd_changes (serial_number, authority_key_identifier) "
                "SELECT serial_number, authority_key_identifier FROM certificates LIMIT $1",
                min(count, entries - start),
            )
    await connection.close()


def lag_s(admin: int) -> float:
    """Return for how long the signer has been behind, in seconds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("ocspd_signer_lag_seconds "))


def summary(values: list[float]) -> dict[str, float]:
    """Return count, percentiles and maximum in milliseconds."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
        "max_ms": round(ordered[-1] * 1000, 1),
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--revocations", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=40.0, help="changes a second")
    parser.add_argument("--backlog", type=int, default=0, help="entries waiting in the change feed")
    parser.add_argument("--no-load", action="store_true", help="measure without wrk")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    wrk = find("wrk")
    if wrk is None and not options.no_load:
        raise SystemExit("wrk is not installed (Debian package wrk); --no-load measures without load")
    signer = make_signer("p256")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-bench-")))
        write_signer(directory, signer)
        url = asyncio.run(create_database(stack.enter_context(running_server())))
        asyncio.run(migrated(url))
        begun = time.monotonic()
        asyncio.run(fill(url, signer.aki, options.certificates))
        print(f"filled {options.certificates} rows in {time.monotonic() - begun:.1f} s", file=sys.stderr)
        (directory / "db.json").write_text(json.dumps({"driver": "postgres", "data_source": url}))
        log = stack.enter_context((directory / "log").open("wb"))
        admin = free_port()
        files = [("-ca", "ca.pem"), ("-responder", "ocsp.pem"), ("-responder-key", "ocsp-key.pem")]
        ocspd = ocspd_program()
        begun = time.monotonic()
        refresh = [
            ocspd,
            *("refresh", "-db-config", directory / "db.json", "-index", directory / "index"),
            *(part for flag, name in files for part in (flag, directory / name)),
            *("-admin-port", str(admin)),
        ]
        stack.enter_context(running("refresh", refresh, admin, cpus="0,1", log=log))
        _until_ready(admin)
        full_pass_s = time.monotonic() - begun
        print(f"first pass done in {full_pass_s:.1f} s", file=sys.stderr)
        port = free_port()
        stack.enter_context(
            running("ocspd", ocspd_command(directory / "index", port, workers=2), port, cpus="0,1", log=log)
        )
        if not options.no_load:
            requests = RequestSource(signer)
            hot = range(7, options.certificates, max(1, options.certificates // 10_000))
            write_requests(directory / "requests", (requests.get(number) for number in hot))
            load = subprocess.Popen(
                [
                    *(
                        str(wrk),
                        "-t",
                        "1",
                        "-c",
                        "64",
                        "-d",
                        "600s",
                        "-s",
                        str(Path(__file__).parent / "ocsp.lua"),
                    ),
                    *(f"http://127.0.0.1:{port}", "--", str(directory / "requests")),
                ],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(load.wait)
            stack.callback(load.terminate)
            time.sleep(2)
        oracle = Oracle([signer.issuer], BOUND_S)
        for change in range(0, options.revocations, NOTED):
            oracle.committed(0, serial_of(change * (options.certificates // options.revocations)), [GOOD])
        stack.enter_context(oracle.watching(IndexDirectory(directory / "index"), every_s=0.05))
        if options.backlog:
            begun = time.monotonic()
            asyncio.run(pile_up(url, options.backlog))
            print(f"{options.backlog} entries wait, after {time.monotonic() - begun:.1f} s", file=sys.stderr)
        latencies = asyncio.run(
            measure(
                url,
                port,
                signer,
                options.certificates,
                options.revocations,
                options.rate,
                oracle,
                issuing=not options.backlog,
            )
        )
        behind = lag_s(admin)
        problems = oracle.violations()
        result = {
            "certificates": options.certificates,
            "load": not options.no_load,
            "rate_per_s": options.rate,
            "backlog": options.backlog,
            "lag_s": round(behind, 1),
            "oracle": problems or "held",
            "first_pass_s": round(full_pass_s, 1),
            **{kind: summary(values) for kind, values in latencies.items()},
        }
        print(json.dumps(result, indent=1))
        if not options.no_load:
            load.terminate()
    if problems:
        raise SystemExit(1)


async def migrated(url: str) -> None:
    """Create the tables."""
    async with await open_certdb(DBConfig("postgres", url), SystemClock()) as db:
        await migrate.up(db)


def _until_ready(admin: int) -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5).read()
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main()
