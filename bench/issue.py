"""Issuing: `ocspd serve` beside CFSSL's `serve`, on one PostgreSQL server, every certificate durable.

    python -m bench.issue [--repeats 5] [--seconds 8] [--connections 32] [--sqlite] [--audit]
    python -m bench.issue --kill 5     # ends PostgreSQL as a power cut does, and looks for what clients got
    python -m bench.issue --stages     # what one certificate takes in one process, step by step

`POST sign` with CSRs of P-256, each of another key and subject, a CA of P-256, and a PostgreSQL that flushes
its log at each commit (fsync and synchronous_commit on). Both servers log as by default, each to a file, and
have all CPUs, which they share with the database and the load generator. CFSSL has a database with no tables
but CFSSL's, ours has the change feed with its triggers too. Runs alternate, and medians are compared.

CPU time per certificate: of the server's processes, and of all of PostgreSQL. Latency at half of the
saturating rate comes from the open-loop generator, see README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from bench.load import ask, at_rate, compile_openloop, saturate
from bench.servers import Server, find, ocspd_program, running
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.faults.cluster import Cluster, clusters
from tests.ports import free_port

from ocspd.certdb import DBConfig, migrate, open_certdb
from ocspd.certdb.migrate import load_migrations
from ocspd.clock import SystemClock
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.profiles import default_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.load import Run

REQUESTS = 2_000
SIGN = "/api/v1/cfssl/sign"
_SETTINGS = """
fsync = on
synchronous_commit = on
max_connections = 200
shared_buffers = 128MB
max_wal_size = 4GB
"""
_CFSSL_OWN = 2
"""The last migration that is CFSSL's."""


# -- material --------------------------------------------------------------------------------------


def write_ca(folder: Path) -> None:
    """Write ca.pem and ca-key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bench CA")])
    now = SystemClock().now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + 10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def make_csr(number: int) -> str:
    """Return a CSR of a new key, with names as a web server's has them."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.ORGANIZATION_NAME, "Example"),
        (NameOID.COMMON_NAME, f"host{number}.example.com"),
    ]
    names = [f"host{number}.example.com", f"www.host{number}.example.com"]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes]))
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        .sign(key, hashes.SHA256())
    )
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def http_request(csr: str) -> bytes:
    """Return a request to sign as CFSSL's client sends it."""
    body = json.dumps({"certificate_request": csr}).encode()
    head = (
        f"POST {SIGN} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body


# -- servers ---------------------------------------------------------------------------------------


@dataclass
class Place:
    """A folder with everything, and the database server."""

    folder: Path
    cluster: Cluster
    stack: ExitStack
    requests: list[bytes] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The requests, for the load generators."""
        return self.folder / "requests"

    def source(self, database: str) -> str:
        """Return a data source that lib/pq and we understand."""
        return f"host={self.cluster.path} user=postgres dbname={database} sslmode=disable"

    def db_config(self, name: str, driver: str, source: str) -> Path:
        """Write a database configuration."""
        path = self.folder / f"{name}-db.json"
        path.write_text(json.dumps({"driver": driver, "data_source": source}))
        return path

    def command(self, program: str | Path, db_config: Path, port: int) -> list[str | Path]:
        """Return the command of a server."""
        files = ("-ca", self.folder / "ca.pem", "-ca-key", self.folder / "ca-key.pem")
        return [
            program,
            "serve",
            "-address",
            "127.0.0.1",
            "-port",
            str(port),
            *files,
            "-db-config",
            db_config,
        ]

    @contextlib.contextmanager
    def serving(self, name: str, program: str | Path, db_config: Path, *flags: str) -> Iterator[Server]:
        """Run a server on all CPUs."""
        port = free_port()
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*self.command(program, db_config, port), *flags]
            with running(name, command, port, cpus=_all_cpus(), log=log) as server:
                yield server


@contextlib.contextmanager
def made_place(*, count: int = REQUESTS) -> Iterator[Place]:
    """Make CA, requests, and a database server with a database for each server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-bench-")))
        (cluster,) = stack.enter_context(clusters(1))
        cluster.make()
        cluster.set(_SETTINGS)
        cluster.start()
        write_ca(folder)
        place = Place(folder, cluster, stack, [http_request(make_csr(number)) for number in range(count)])
        with place.file.open("wb") as file:
            for request in place.requests:
                file.write(struct.pack("<I", len(request)) + request)
        asyncio.run(_make_databases(place))
        yield place


async def _make_databases(place: Place) -> None:
    admin = await asyncpg.connect(host=str(place.cluster.path), user="postgres", database="postgres")
    for name in ("ours", "theirs"):
        await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    async with await open_certdb(DBConfig("postgres", place.source("ours")), SystemClock()) as db:
        await migrate.up(db)
    theirs = await asyncpg.connect(host=str(place.cluster.path), user="postgres", database="theirs")
    for migration in load_migrations("postgres")[:_CFSSL_OWN]:
        for statement in migration.up:
            await theirs.execute(statement)
    await theirs.close()


def _all_cpus() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


# -- rate and latency ------------------------------------------------------------------------------


@dataclass
class Figures:
    """What was measured of one server."""

    rate: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    half_p50_ms: list[float] = field(default_factory=list)
    half_p99_ms: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    first_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)
    errors: int = 0

    def line(self, name: str) -> str:
        """Return the medians, with the range of the rate."""

        def median(values: list[float]) -> float:
            return statistics.median(values) if values else float("nan")

        return (
            f"{name:<16}{median(self.rate):>8.0f} /s [{min(self.rate):.0f}-{max(self.rate):.0f}]"
            f"  p50 {median(self.p50_ms):5.1f}  p99 {median(self.p99_ms):6.1f} ms"
            f"  at half: p50 {median(self.half_p50_ms):4.1f}  p99 {median(self.half_p99_ms):5.1f} ms"
            f"  CPU us per certificate: server {median(self.server_us):.0f}"
            f" (first process {median(self.first_us):.0f}), database {median(self.database_us):.0f}"
            f"  errors {self.errors}"
        )


def database_cpu_s(cluster: Cluster) -> Callable[[], float]:
    """Return a function that reads the CPU time of the database server, ended connections included."""
    first = int((cluster.path / "data" / "postmaster.pid").read_text().splitlines()[0])
    ticks = os.sysconf("SC_CLK_TCK")

    def of(pid: int, *, dead_children: bool) -> float:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(int(fields[at]) for at in ((11, 12, 13, 14) if dead_children else (11, 12))) / ticks

    def read() -> float:
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return of(first, dead_children=True) + sum(of(int(pid), dead_children=False) for pid in children)

    return read


def measure(  # noqa: PLR0913, PLR0917  (one for each thing that takes part)
    place: Place, server: Server, found: Figures, options: Any, openloop: Path, wrk: str
) -> Run:
    """Measure a server once, saturated and at half of that rate."""
    database = database_cpu_s(place.cluster)
    database_before, first_before = database(), server.cpu_by_process()
    run = saturate(
        server,
        "sign",
        place.file,
        wrk=wrk,
        cpus=_all_cpus(),
        seconds=options.seconds,
        connections=options.connections,
    )
    first_after = server.cpu_by_process()
    found.rate.append(run.per_second)
    found.p50_ms.append(run.p50_us / 1e3)
    found.p99_ms.append(run.p99_us / 1e3)
    found.server_us.append(run.cpu_us)
    pid = server.process.pid
    found.first_us.append((first_after[pid] - first_before[pid]) / run.requests * 1e6)
    found.database_us.append((database() - database_before) / run.requests * 1e6)
    found.errors += run.errors
    half = at_rate(
        server,
        "sign",
        place.file,
        openloop=openloop,
        cpus=_all_cpus(),
        seconds=options.seconds,
        rate=run.per_second / 2,
        connections=options.connections,
        waits=True,
    )
    found.half_p50_ms.append(half.p50_us / 1e3)
    found.half_p99_ms.append(half.p99_us / 1e3)
    return run


def check(server: Server, request: bytes) -> None:
    """Make sure that a server signs at all, which also warms it up."""
    head, body = ask(server.port, request)
    if not head.startswith(b"HTTP/1.1 200") or b"BEGIN CERTIFICATE" not in body:
        raise RuntimeError(f"{server.name} does not sign: {head!r} {body!r}")


def compare(options: Any) -> None:  # noqa: C901  (one server after the other)
    """Measure both servers in turn and print the medians."""
    wrk, cfssl = find("wrk"), find("cfssl")
    if wrk is None:
        raise SystemExit("wrk is missing")
    with made_place() as place:
        openloop = compile_openloop(place.folder)
        figures: dict[str, Figures] = {}
        servers: list[Server] = []
        ours = place.db_config("ours", "postgres", place.source("ours"))
        servers.append(place.stack.enter_context(place.serving("ocspd", ocspd_program(), ours)))
        if options.audit:
            flags = ("-audit-log", str(place.folder / "audit.log"))
            logging = place.serving("ocspd, audit log", ocspd_program(), ours, *flags)
            servers.append(place.stack.enter_context(logging))
        if options.sqlite:
            file = place.folder / "certs.db"
            config = place.db_config("sqlite", "sqlite3", str(file))

            async def make() -> None:
                async with await open_certdb(DBConfig("sqlite3", str(file)), SystemClock()) as db:
                    await migrate.up(db)

            asyncio.run(make())
            servers.append(place.stack.enter_context(place.serving("ocspd, SQLite", ocspd_program(), config)))
        if cfssl is not None and not options.alone:
            theirs = place.db_config("theirs", "postgres", place.source("theirs"))
            servers.append(place.stack.enter_context(place.serving("cfssl", cfssl, theirs)))
        for server in servers:
            for request in place.requests[:20]:
                check(server, request)
        for repeat in range(options.repeats):
            for server in servers:
                found = figures.setdefault(server.name, Figures())
                run = measure(place, server, found, options, openloop, wrk)
                print(f"{repeat + 1}: {server.name}: {run.per_second:.0f}/s", file=sys.stderr)
        for name, found in figures.items():
            print(found.line(name))
        if "cfssl" in figures:
            ratio = statistics.median(figures["ocspd"].rate) / statistics.median(figures["cfssl"].rate)
            print(f"ocspd's rate in times of cfssl's: {ratio:.2f}")


# -- a power cut -----------------------------------------------------------------------------------


async def _client(port: int, requests: list[bytes], got: list[str], stop: asyncio.Event) -> int:
    """Ask for certificates until told to stop, and keep each that came; return how many errors came."""
    errors = at = 0
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            errors += 1
            await asyncio.sleep(0.05)
            continue
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ConnectionError):
            while not stop.is_set():
                writer.write(requests[at % len(requests)])
                at += 1
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                reply = json.loads(await reader.readexactly(length))
                if reply["success"]:
                    got.append(reply["result"]["certificate"])
                else:
                    errors += 1
                    await asyncio.sleep(0.02)
        writer.close()
    return errors


async def _cut(place: Place, server: Server, connections: int) -> tuple[int, int, int]:
    """Stop the database hard under load, start it again, and compare; return got, missing, errors."""
    got: list[str] = []
    stop = asyncio.Event()
    clients = [
        asyncio.create_task(_client(server.port, place.requests[number::connections], got, stop))
        for number in range(connections)
    ]
    await asyncio.sleep(2)
    before = len(got)
    await asyncio.to_thread(place.cluster.stop, "immediate")
    await asyncio.sleep(0.5)
    await asyncio.to_thread(place.cluster.start)
    while len(got) < before + 500:  # noqa: ASYNC110  (nobody tells)
        await asyncio.sleep(0.05)
    stop.set()
    errors = sum(await asyncio.gather(*clients))
    serials = [str(x509.load_pem_x509_certificate(pem.encode()).serial_number).encode() for pem in got]
    if len(set(serials)) != len(serials):
        raise SystemExit("a serial number was used twice")
    connection = await asyncpg.connect(host=str(place.cluster.path), user="postgres", database="ours")
    stored = await connection.fetch(
        "SELECT serial_number, pem FROM certificates WHERE serial_number = ANY($1::bytea[])", serials
    )
    await connection.close()
    rows = {bytes(record["serial_number"]): bytes(record["pem"]) for record in stored}
    missing = sum(
        rows.get(serial, b"").strip() != pem.encode().strip()
        for serial, pem in zip(serials, got, strict=True)
    )
    return len(got), missing, errors


def kill(options: Any) -> None:
    """End the database hard, again and again, and look for every certificate that a client got."""
    with made_place() as place:
        ours = place.db_config("ours", "postgres", place.source("ours"))
        with place.serving("ocspd", ocspd_program(), ours) as server:
            check(server, place.requests[0])
            lost = 0
            for turn in range(options.kill):
                got, missing, errors = asyncio.run(_cut(place, server, options.connections))
                print(
                    f"{turn + 1}: clients got {got} certificates and {errors} errors; {missing} without a row"
                )
                lost += missing
        log = (place.folder / "ocspd.log").read_text(errors="replace")
        unstored = log.count("was signed but not stored")
        print(f"signed but not stored, and logged as such: {unstored}")
    if lost:
        raise SystemExit(f"{lost} certificates were lost")


# -- one certificate, step by step -----------------------------------------------------------------


def stages() -> None:
    """Time the steps of one certificate in this process: CPU time, the best of fifteen rounds."""
    from ocspd.authority.api.sign import _read_request  # noqa: PLC0415  (only here)
    from ocspd.pki import csr_reader, keys, pem  # noqa: PLC0415
    from ocspd.pki.certs import load_certificate  # noqa: PLC0415
    from ocspd.pki.public_keys import read_public_key  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ca(folder)
        certificate = load_certificate((folder / "ca.pem").read_bytes())
        key = keys.load_private_key((folder / "ca-key.pem").read_bytes())
    csrs = [make_csr(number) for number in range(200)]
    bodies = [http_request(csr).partition(b"\r\n\r\n")[2] for csr in csrs]
    issuer = Issuer(certificate, key, default_config(), SystemClock())
    loaded = [csr_reader.load_csr(csr.encode()) for csr in csrs]
    issued = [issuer.issue(SignRequest(csr_pem=csr)) for csr in csrs]
    datas = [pem.blocks(csr.encode())[0].content for csr in csrs]
    from cryptography.x509 import load_der_x509_csr  # noqa: PLC0415

    def show(what: str, work: Callable[[int], object]) -> None:
        best = []
        for _ in range(15):
            begun = time.process_time()
            for number in range(len(csrs)):
                work(number)
            best.append((time.process_time() - begun) / len(csrs) * 1e6)
        print(f"{what:<44}{min(best):8.1f} us")

    show("JSON of the request", lambda n: _read_request(bodies[n]))
    show("CSR: PEM", lambda n: pem.blocks(csrs[n].encode()))
    show("CSR: public key", lambda n: read_public_key(loaded[n].key_info))
    show("CSR: all, signature included", lambda n: csr_reader.load_csr(csrs[n].encode()))
    show("  signature check alone (the library's)", lambda n: load_der_x509_csr(datas[n]).is_signature_valid)
    show("subject encoded", lambda n: loaded[n].subject.encode())
    show("signature by the CA", lambda n: keys.sign(key, issued[n].der))
    show("issue: all of it", lambda n: issuer.issue(SignRequest(csr_pem=csrs[n])))
    show("row, PEM included", lambda n: issued[n].row(label="", issued_at=issued[n].not_before))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--sqlite", action="store_true", help="measure ocspd on SQLite, too")
    parser.add_argument("--audit", action="store_true", help="measure ocspd with an audit log, too")
    parser.add_argument("--alone", action="store_true", help="leave CFSSL out")
    parser.add_argument("--kill", type=int, default=0, metavar="TIMES")
    parser.add_argument("--stages", action="store_true")
    options = parser.parse_args()
    if options.stages:
        stages()
    elif options.kill:
        kill(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
