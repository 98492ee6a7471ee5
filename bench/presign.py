"""How close presigning comes to a bare key.sign() loop, on one core and on all of them.

    python bench/presign.py [--seconds 0.2] [--repeats 25] [--json FILE]

Every figure is the median of interleaved repeats in one run: bare loop, ours, bare loop, ours, …
On one core a loop is timed in CPU seconds of the process, so other work on the machine counts little. A
pass on all cores is timed by the wall clock, start of the processes included; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.data import Rows
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ocspd.cli.loop import run_uvloop
from ocspd.clock import SystemClock
from ocspd.machine import MACHINE
from ocspd.model import CertStatus
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy
from ocspd.signer.presigning import run_pass, usable_cpus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ocspd.certdb.packed import PackedRows
    from ocspd.signer.tally import Progress

KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def make_signer(make_key: Callable[[], Any], certid_hashes: tuple[str, ...]) -> OCSPSigner:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bench CA")])
    now = datetime.now(UTC)

    def builder(subject: str, public: Any, serial: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(name)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
        )

    ca = (
        builder("Bench CA", ca_key.public_key(), 1)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    responder = (
        builder("Bench OCSP", key.public_key(), 2)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
        .add_extension(x509.OCSPNoCheck(), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return OCSPSigner(ca, responder, key, SigningPolicy(certid_hashes=certid_hashes), SystemClock())


def rate(work: Callable[[int], object], count: int) -> float:
    """Calls per CPU second."""
    start = time.process_time()
    work(count)
    return count / (time.process_time() - start)


def calibrate(work: Callable[[int], object], seconds: float) -> int:
    work(20)
    return max(20, int(rate(work, 50) * seconds))


def one_core(signer: OCSPSigner, *, seconds: float, repeats: int) -> dict[str, float]:
    """Compare the two loops on this core; one response in ten is revoked."""
    batch = signer.batch()
    data = b"x" * 216
    key_sign = bare_arguments(signer)
    first = 1 << 158
    revoked_at = datetime(2026, 1, 1, tzinfo=UTC)

    def bare(count: int) -> None:
        sign, arguments = key_sign
        for _ in range(count):
            sign(data, *arguments)

    def ours(count: int) -> None:
        sign = batch.sign
        for serial in range(first, first + count):
            if serial % 10:
                sign(serial)
            else:
                sign(serial, CertStatus.REVOKED, 1, revoked_at)

    count = calibrate(bare, seconds)
    pairs = [(rate(bare, count), rate(ours, count)) for _ in range(repeats)]
    return {
        "bare_per_s": statistics.median(pair[0] for pair in pairs),
        "ours_per_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def bare_arguments(signer: OCSPSigner) -> tuple[Callable[..., bytes], tuple[Any, ...]]:
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    key = signer.key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        digest = hashes.SHA384() if key.key_size == 384 else hashes.SHA256()
        return key.sign, (ec.ECDSA(digest),)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign, (padding.PKCS1v15(), hashes.SHA256())
    return key.sign, ()


def _bare_process(make: str, count: int, ready: Any, go: Any, results: Any) -> None:
    signer = make_signer(KEYS[make], ("sha1",))
    sign, arguments = bare_arguments(signer)
    data = b"x" * 216
    ready.release()
    go.wait()
    start = time.perf_counter()
    for _ in range(count):
        sign(data, *arguments)
    results.put(count / (time.perf_counter() - start))


def bare_on_all(kind: str, processes: int, count: int) -> float:
    """Run the bare loop in every process at once; the sum of their rates."""
    context = multiprocessing.get_context("spawn")
    ready, go, results = context.Semaphore(0), context.Event(), context.Queue()
    workers = [
        context.Process(target=_bare_process, args=(kind, count, ready, go, results))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    go.set()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return cast("float", total)


class Sink:
    """A SegmentSink that keeps what it is given."""

    limit = 1 << 60

    def __init__(self, folder: str) -> None:
        self.prefix = f"{folder}/new-"
        self.machine = MACHINE
        self.paths: list[str] = []

    async def publish(self, paths: list[str]) -> None:
        self.paths += paths


async def made(rows: Rows) -> list[PackedRows]:
    return [packed async for packed in rows.stream_packed()]


class MadeRows(Rows):
    """Rows prepared in advance."""

    def __init__(self, ready: list[PackedRows]) -> None:
        super().__init__(0, "")
        self._ready = ready

    async def stream_packed(self) -> AsyncIterator[PackedRows]:
        for packed in self._ready:
            yield packed


def into_index(signer: OCSPSigner, processes: int, rows: int) -> float:
    """Sign rows into segments, as `refresh` does; return responses per second, up to the finished segments.

    The start of the processes, a second or so of a pass however long, is left out, as with the bare loop, and
    the rows are made before.
    """
    source = MadeRows(asyncio.run(made(Rows(rows, signer.aki, revoked_every=10))))
    first: list[tuple[float, int]] = []

    def progress(done: Progress) -> None:
        if done.signed and not first:
            first.append((time.perf_counter(), done.signed * len(signer.policy.certid_hashes)))

    with tempfile.TemporaryDirectory() as folder:
        report = run_uvloop(
            run_pass(
                source,
                [signer],
                clock=SystemClock(),
                processes=processes,
                table=False,
                segments=Sink(folder),
                on_progress=progress,
            )
        )
        begun, before = first[0]
        return (report.responses - before) / (time.perf_counter() - begun)


def all_cores(kind: str, *, seconds: float, repeats: int, bare_per_s: float) -> dict[str, float]:
    processes = usable_cpus()
    signer = make_signer(KEYS[kind], ("sha1", "sha256"))
    count = max(50, int(bare_per_s * seconds))
    pairs = []
    for _ in range(repeats):
        bare = bare_on_all(kind, processes, count)
        pairs.append((bare, into_index(signer, processes, count * processes // 2)))
    return {
        "processes": processes,
        "bare_per_s": statistics.median(pair[0] for pair in pairs),
        "ours_per_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one loop on one core")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--pass-seconds", type=float, default=10.0, help="length of one pass on all cores")
    parser.add_argument("--pass-repeats", type=int, default=3)
    parser.add_argument("--keys", nargs="*", choices=KEYS, default=list(KEYS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'key':10} {'where':22} {'bare/s':>9} {'ours/s':>9} {'ratio':>7}")
    for kind in options.keys:
        signer = make_signer(KEYS[kind], ("sha1",))
        alone = one_core(signer, seconds=options.seconds, repeats=options.repeats)
        table[kind] = {"one core": alone}
        show(kind, "one core", alone)
        if options.pass_seconds > 0:
            everywhere = all_cores(
                kind,
                seconds=options.pass_seconds,
                repeats=options.pass_repeats,
                bare_per_s=alone["bare_per_s"],
            )
            table[kind]["all cores, into index"] = everywhere
            show(kind, f"{everywhere['processes']:.0f} processes, index", everywhere)
    if options.json:
        options.json.write_text(json.dumps({"python": sys.version, "results": table}, indent=1) + "\n")


def show(kind: str, where: str, figures: dict[str, float]) -> None:
    print(
        f"{kind:10} {where:22} {figures['bare_per_s']:9.0f} {figures['ours_per_s']:9.0f} "
        f"{figures['ratio']:7.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
