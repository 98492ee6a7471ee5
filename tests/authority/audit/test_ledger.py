"""Entries come before what they are about, and say when it failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.authority.access.actor import Actor, acting
from ocspd.authority.adding import AlreadyStoredError, add
from ocspd.authority.audit.chain import MAX_LINE_BYTES, encode
from ocspd.authority.audit.ledger import MAX_NAMES, Ledger, certificate_entry
from ocspd.authority.audit.log import AuditLog
from ocspd.authority.audit.reconcile import reconcile
from ocspd.authority.revoking import revoke
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from ocspd.model import CertificateRow, CertStatus
from tests.authority.audit.logs import checked, entries, opened, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB

NOW = datetime.now(UTC).replace(microsecond=0)
ACTOR = Actor(address="192.0.2.7:80", subject="CN=ra", endpoint="certadd")


def row(serial: int, **more: Any) -> CertificateRow:
    return CertificateRow(
        serial=serial, aki="ab", pem="", expiry=NOW + timedelta(days=9), issued_at=NOW, **more
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "audit.log"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with AuditLog(opened(path), SystemClock()) as log:
        yield Ledger(log)


def story(path: Path) -> list[tuple[Any, ...]]:
    return [
        (entry.event, entry.fields.get("serial"), entry.fields["result"], entry.fields.get("code"))
        for entry in entries(path)
        if entry.event not in {"start", "stop", "checkpoint", "recovered"}
    ]


async def agree(path: Path, db: CertDB) -> bool:
    return not (await reconcile(entries(path), db, NOW)).differences


async def test_adding_revoking_and_releasing_have_an_entry_each(
    path: Path, ledger: Ledger, certdb: CertDB
) -> None:
    with acting(ACTOR):
        await add(certdb, row(7), ledger)
        await revoke(certdb, serial_text="7", aki="AB", reason="certificateHold", ledger=ledger)
    assert await agree(path, certdb)
    await revoke(certdb, serial_text="7", aki="ab", reason="removeFromCRL", ledger=ledger)
    assert story(path) == [
        ("add", "7", "ok", None),
        ("revoke", "7", "ok", None),
        ("release", "7", "ok", None),
    ]
    fields = entries(path)[3].fields
    assert {name: fields[name] for name in ("aki", "reason", "address", "subject", "endpoint")} == {
        "aki": "ab",
        "reason": "certificatehold",
        "address": "192.0.2.7:80",
        "subject": "CN=ra",
        "endpoint": "certadd",
    }
    assert texts(checked(path)) == []
    assert await agree(path, certdb)


async def test_what_cannot_be_stored_has_another_entry(path: Path, ledger: Ledger, certdb: CertDB) -> None:
    await add(certdb, row(7), ledger)
    with pytest.raises(AlreadyStoredError):
        await add(certdb, row(7), ledger)
    with pytest.raises(CodedError):
        async with ledger.adding(row(7)):
            await certdb.insert_certificate(row(7))
    assert story(path) == [
        ("add", "7", "ok", None),
        ("add", "7", "ok", None),
        ("not-stored", "7", "failed", 11000),
    ]


async def test_a_revocation_that_changes_nothing_says_so(path: Path, ledger: Ledger, certdb: CertDB) -> None:
    await add(certdb, row(7), ledger)
    for _ in range(2):
        await revoke(certdb, serial_text="7", aki="ab", reason="superseded", ledger=ledger)
    with pytest.raises(CodedError):
        await revoke(certdb, serial_text="7", aki="ab", reason="removeFromCRL", ledger=ledger)
    assert story(path)[1:] == [
        ("revoke", "7", "ok", None),
        ("revoke", "7", "ok", None),
        ("not-revoked", "7", "unchanged", None),
        ("release", "7", "ok", None),
        ("not-revoked", "7", "failed", 8200),
    ]
    assert await agree(path, certdb)


async def test_there_is_no_entry_about_a_certificate_that_does_not_exist(
    path: Path, ledger: Ledger, certdb: CertDB
) -> None:
    with pytest.raises(CodedError):
        await revoke(certdb, serial_text="7", aki="ab", ledger=ledger)
    assert story(path) == []


async def test_a_certificate_added_as_revoked_is_revoked_in_the_log_too(
    path: Path, ledger: Ledger, certdb: CertDB
) -> None:
    await add(certdb, row(7, status=CertStatus.REVOKED, reason=1, revoked_at=NOW), ledger)
    assert await agree(path, certdb)


async def test_without_a_log_that_can_be_written_nothing_is_added_or_revoked(
    path: Path, ledger: Ledger, certdb: CertDB
) -> None:
    await add(certdb, row(7), ledger)
    path.parent.rename(path.parent.with_name("away"))
    for action in (add(certdb, row(8), ledger), revoke(certdb, serial_text="7", aki="ab", ledger=ledger)):
        with pytest.raises(CodedError) as caught:
            await action
        assert caught.value.code == 12000
    path.parent.with_name("away").rename(path.parent)
    assert await certdb.get_certificate(8, "ab") is None
    found = await certdb.get_certificate(7, "ab")
    assert found is not None
    assert found.status is CertStatus.GOOD
    await revoke(certdb, serial_text="7", aki="ab", ledger=ledger)
    assert await agree(path, certdb)


def test_an_entry_stays_short_whatever_a_certificate_contains() -> None:
    names = [f"{'x' * 60}.{number}.example" for number in range(5000)]
    fields = certificate_entry("issue", Actor(), row(1), names, profile="p", csr_pem="junk")
    assert len(fields["sans"]) == MAX_NAMES
    assert fields["sans_total"] == 5000
    long = certificate_entry("issue", Actor(), row(1, common_name="n" * 100_000), ["y" * 100_000])
    assert (long["sans"], long["sans_total"]) == ([], 1)
    assert len(long["common_name"]) <= 300


def test_an_entry_of_the_longest_names_of_every_kind_fits_in_a_line() -> None:
    actor = Actor(address="[2001:db8::1]:65535", subject="\U0001f512" * 1000, endpoint="certadd")
    for name in ("\U0001f512" * 100, "\x00" * 100, '"\\' * 100, "x" * 200, "\ud800" * 50):
        names = [name] * 5000
        fields = certificate_entry(
            "add", actor, row(1, common_name=name * 9, ca_label=name), names, profile=name
        )
        assert 0 < len(fields["sans"]) <= MAX_NAMES
        assert len(encode(fields)) < MAX_LINE_BYTES


def test_long_names_of_profiles_and_labels_are_not_kept_in_memory() -> None:
    from ocspd.authority.audit.ledger import _shown

    before = _shown.cache_info().misses
    long = "long name " * 100_000
    fields = certificate_entry("issue", Actor(), row(1, ca_label=long), [], profile=long)
    assert (fields["profile"], fields["label"]) == (long[:100], long[:100])
    assert _shown.cache_info().misses == before


@pytest.mark.parametrize("sans", [{"a": 1}, [1, None], "text", [["x"]], 7])
async def test_a_row_with_anything_in_it_can_be_logged(
    path: Path, ledger: Ledger, certdb: CertDB, sans: Any
) -> None:
    await add(certdb, row(7, sans=sans, common_name="\U0001f512" * 50_000, ca_label="x" * 9000), ledger)
    assert story(path) == [("add", "7", "ok", None)]
    assert await agree(path, certdb)


def test_no_key_in_a_label_or_a_name_reaches_the_log() -> None:
    secret = "8f3a1c5e7b9d2046af13579bdf02468ace13579b"
    fields = certificate_entry("issue", Actor(), row(1, ca_label=secret), [], profile=secret)
    assert secret not in str(fields)
