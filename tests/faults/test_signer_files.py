"""S3, S4 and S11: disks that are full or read-only, and keys that are not what they should be."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import ManualClock
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy
from tests.binary import OCSPD, ocspd
from tests.faults.daemon import Rows, signing
from tests.faults.oracle import Oracle
from tests.faults.signer_binary import Place
from tests.pki.chain import NOW, common_name, key_pem, make_certificate, make_chain, make_key, pem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ocspd.certdb import DBConfig
    from ocspd.certdb.base import CertDB

UNLIMITED = resource.RLIM_INFINITY
PLAIN_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""What makes root obey the permissions of files."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.fill(20)
    return place


@contextlib.contextmanager
def no_room(place: Place, pid: int) -> Iterator[None]:
    """No file can grow: what a full disk is, with EFBIG for ENOSPC."""
    assert place.index.path.is_dir()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, UNLIMITED))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


@contextlib.contextmanager
def read_only(place: Place, pid: int) -> Iterator[None]:
    """Nothing can be written into the index directory."""
    assert pid
    place.index.path.chmod(0o555)
    yield
    place.index.path.chmod(0o755)


@pytest.mark.parametrize("fault", [no_room, read_only])
def test_S3_an_index_that_cannot_be_written_serves_on_is_told_of_and_heals(
    place: Place, fault: Callable[[Place, int], contextlib.AbstractContextManager[None]]
) -> None:
    with place.signer(before=PLAIN_USER) as signer, place.oracle.watching(place.index):
        place.revoke(1)
        signer.until(lambda: place.revoked(1), "a revocation")
        with fault(place, signer.process.pid):
            place.revoke(2)
            signer.until(lambda: signer.gauge("ocspd_signer_index_up") == 0, "the gauge")
            status, text = signer.probe()
            assert (status, "the index cannot be written" in text) == (503, True)
            assert signer.gauge("ocspd_signer_database_up") == signer.gauge("ocspd_signer_keys_up") == 1
            assert place.revoked(1)  # the generation before goes on
            assert not place.revoked(2)
        signer.until(lambda: place.revoked(2), "what was left undone")
        signer.until(lambda: signer.probe()[0] == 200, "readiness")
        signer.until(lambda: "the index can be written again" in signer.log, "a word about it")
    assert place.oracle.violations() == []
    assert place.oracle.unanswered() == []
    assert [path.name for path in place.index.path.iterdir() if "new-" in path.name] == []


@pytest.mark.parametrize("octets", [0, 4096, 20_000])
def test_S4_a_full_disk_under_sqlite_is_a_clear_error_and_harms_nothing(place: Place, octets: int) -> None:
    words = [*OCSPD, "revoke", "-db-config", "db.json", "-serial", "5", "-aki", place.chain.signer().aki]

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (octets, octets))

    done = subprocess.run(
        [*words, "-reason", "superseded"],
        cwd=place.path,
        preexec_fn=no_room,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    session = sqlite3.connect(place.database)
    with contextlib.closing(session):
        assert session.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT status FROM certificates WHERE serial_number = '5'"
        ((status,),) = session.execute(query).fetchall()
    if octets < 20_000:  # else there is room for the journal, and the file need not grow
        assert (done.returncode, status) == (1, "good")
        assert "Traceback" not in done.stderr
        assert "certs.db" in done.stderr
        assert any(word in done.stderr for word in ("disk", "full")), done.stderr
    else:
        assert (done.returncode == 0) == (status == "revoked")
    again = ocspd(*words[len(OCSPD) :], "-reason", "superseded", cwd=place.path)
    assert again.returncode == 0, again.stderr


CHAIN, OTHER = make_chain(), make_chain(name="Other CA", number=1)


KEY, CERTIFICATE = "responder-key.pem", "responder.pem"
FAULTS: dict[str, dict[str, bytes | None]] = {
    "a key that is missing": {KEY: None},
    "a certificate that is missing": {CERTIFICATE: None},
    "a key of something else": {KEY: key_pem(make_key("ecdsa-256", 9))},
    "a key that is garbage": {KEY: b"\x00\xffgarbage"},
    "a key that is cut short": {KEY: key_pem(CHAIN.responder_key)[:100]},
    "an empty certificate": {CERTIFICATE: b""},
    "a certificate of another CA": {
        CERTIFICATE: pem(OTHER.responder),
        KEY: key_pem(OTHER.responder_key),
    },
    "a certificate that may not sign responses": {
        CERTIFICATE: pem(CHAIN.leaf),
        KEY: key_pem(make_key("ecdsa-256", 9)),
    },
}


def test_S11_keys_that_cannot_be_used_leave_the_old_one_in_use_and_heal(place: Place) -> None:
    good = {name: (place.path / name).read_bytes() for name in (KEY, CERTIFICATE)}
    with place.signer() as signer, place.oracle.watching(place.index):
        for serial, (what, files) in enumerate(FAULTS.items(), 1):
            told = signer.log.count("still using the previous signers")
            for name, content in files.items():
                (place.path / name).unlink()
                if content is not None:
                    (place.path / name).write_bytes(content)
            signer.look()
            signer.until(lambda: signer.gauge("ocspd_signer_keys_up") == 0, what)
            # a second look finds the same, and says nothing new
            signer.look()
            place.revoke(serial)
            signer.until(partial(place.revoked, serial), f"a revocation with {what}")
            assert signer.log.count("still using the previous signers") == told + 1, signer.log
            status, text = signer.probe()
            assert (status, "\nkeys: ok" in text) == (200, False)
            assert signer.gauge("ocspd_signer_database_up") == signer.gauge("ocspd_signer_index_up") == 1
            for name, content in good.items():
                (place.path / name).write_bytes(content)
            signer.look()
            signer.until(lambda: signer.gauge("ocspd_signer_keys_up") == 1, f"an end of {what}")
    assert place.oracle.violations() == []
    assert place.oracle.unanswered() == []
    assert ocspd("index", "verify", "index", "-ca", "ca.pem", cwd=place.path).returncode == 0


def signer_until(days: float, clock: ManualClock) -> OCSPSigner:
    """Return a signer whose certificate ends."""
    responder = make_certificate(
        common_name("OCSP"),
        CHAIN.responder_key,
        CHAIN.ca.subject,
        CHAIN.ca_key,
        serial=77,
        ocsp=True,
        days=days,
    )
    return OCSPSigner(CHAIN.ca, responder, CHAIN.responder_key, SigningPolicy(), clock)


async def test_S11_a_certificate_that_expires_while_running_is_told_of_once_and_heals(
    certdb: CertDB, migrated_db_config: DBConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(NOW)
    oracle = Oracle([CHAIN.ca], 3600.0, wall_clock=NOW.timestamp)
    rows = Rows(migrated_db_config)
    first = signer_until(0.1, clock)
    for serial in ("1", "2"):
        await rows.insert(serial, first.aki)
    async with signing(certdb, tmp_path / "index", first, clock=clock, oracle=oracle) as signer:
        stats = signer.refresher.stats
        assert stats.failing == {}
        clock.advance(timedelta(days=0.11))
        await signer.until(lambda: bool(stats.failing), "the gauge")
        with oracle.committing(0, 1, ["revoked"]):
            await rows.says("1", first.aki, "revoked")
        for _ in range(2):
            await signer.another_pass()
            assert list(stats.failing) == [first.subject]
        assert all(stats.health.up(part) for part in ("database", "feed", "index", "keys", "processes"))
        assert caplog.text.count("expired on") == 1
        signer.source.next = [signer_until(30, clock)]
        await signer.until(lambda: signer.status(1) == 1, "what was owed")
        assert stats.failing == {}
