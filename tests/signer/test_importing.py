from __future__ import annotations

import asyncio
import contextlib
import resource
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ocspd.certdb.feed import CursorLostError
from ocspd.clock import ManualClock
from ocspd.errors import ConfigError, OCSPDError
from ocspd.model import CertStatus, StatusRow
from ocspd.signer import serial_buckets
from ocspd.signer.importing import FileStatus, IssuerFiles, Sources
from ocspd.signer.index_txt import LineError, lines, parse_row, parse_serial_line
from ocspd.signer.serial_buckets import Claim, SerialBuckets
from tests.pki.chain import NOW, make_certificate, make_chain
from tests.signer.revocation import CHAIN, OTHER, REVOKED_AT, crl, der, part, pem, revoked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

R = x509.ReasonFlags
LATER = "350101000000Z"


class Files:
    """Files of one import and what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped: list[tuple[str, str]] = []
        self.status: FileStatus | None = None

    def write(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def crls(self, *contents: bytes) -> tuple[str, ...]:
        return tuple(self.write(f"{number}.crl", content) for number, content in enumerate(contents))

    async def read(
        self, sources: Sources, issuers: Sequence[x509.Certificate] = (CHAIN.ca,)
    ) -> dict[int, StatusRow]:
        self.status = FileStatus(
            sources,
            lambda: issuers,
            clock=ManualClock(NOW),
            folder=self.folder,
            on_skip=lambda where, cause: self.skipped.append((where.rpartition("/")[2], cause)),
        )
        found: dict[int, StatusRow] = {}
        async for rows in self.status.stream_status():
            assert not found.keys() & {row.serial for row in rows}
            found |= {row.serial: row for row in rows}
        return found

    async def read_crls(self, *contents: bytes, serials: str = "", **options: Any) -> dict[int, StatusRow]:
        issued = (self.write("serials", serials),) if serials else ()
        return await self.read(
            Sources(crls=self.crls(*contents), issuers=(IssuerFiles(serials=issued),), **options)
        )

    async def read_index(self, text: str, *, crls: tuple[str, ...] = ()) -> dict[int, StatusRow]:
        path = self.write("index.txt", text)
        return await self.read(Sources(crls=crls, issuers=(IssuerFiles(index_txt=(path,)),)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def told(rows: dict[int, StatusRow]) -> dict[int, str | int]:
    """Reduce rows to `good` or the reason."""
    return {
        serial: row.reason if row.status == CertStatus.REVOKED else "good" for serial, row in rows.items()
    }


# -- index.txt ---------------------------------------------------------------------------------------


def line(status: str = "V", expiry: str = LATER, revocation: str = "", serial: str = "01") -> str:
    return f"{status}\t{expiry}\t{revocation}\t{serial}\tunknown\t/CN=host\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 0),
        (",unspecified", 0),
        (",keyCompromise", 1),
        (",CACompromise", 2),
        (",affiliationChanged", 3),
        (",superseded", 4),
        (",cessationOfOperation", 5),
        (",certificateHold", 6),
        (",holdInstruction,holdInstructionCallIssuer", 6),
        (",keyTime,20260101000000Z", 1),
        (",CAkeyTime,20260101000000Z", 2),
        (",CAkeyCompromise", 2),
        (",KEYCOMPROMISE", 1),
        (",privilegeWithdrawn", 9),
        (",AACompromise", 10),
    ],
)
def test_every_reason_openssl_writes_is_read(text: str, reason: int) -> None:
    row = parse_row(line("R", revocation=f"260102030405Z{text}").rstrip().encode())
    assert row.revoked
    assert row.reason == reason
    assert row.revoked_s == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert not row.flaws


@pytest.mark.parametrize(
    ("fields", "flaw"),
    [
        ({"revocation": "260102030405Z,noSuchReason"}, "unknown reason"),
        ({"revocation": "260102030405Z,removeFromCRL"}, "unknown reason"),
        ({"revocation": "yesterday,keyCompromise"}, "bad revocation date"),
        ({"revocation": "261332000000Z"}, "bad revocation date"),
        ({"revocation": "260102030405Z", "expiry": "?"}, "bad expiry date"),
    ],
)
def test_a_revocation_is_heard_although_a_detail_of_it_cannot_be_read(
    fields: dict[str, str], flaw: str
) -> None:
    row = parse_row(line("R", **fields).rstrip().encode())
    assert row.revoked
    assert flaw in row.flaws[0]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("V\t350101000000Z\t\t01\tunknown", "5 fields instead of 6"),
        ("V\t350101000000Z\t\t01\tunknown\t/CN=a\tb", "7 fields instead of 6"),
        (line(serial="xyz"), "bad serial"),
        (line(serial="-01"), "bad serial"),
        (line(serial=""), "bad serial"),
        (line(serial="11" * 21), "serial longer than 20 bytes"),
        (line(status="X"), "unknown status"),
        (line(status="S"), "suspended"),
        (line(expiry="soon"), "bad expiry date"),
        (line(revocation="260102030405Z"), "valid, with a revocation date"),
    ],
)
def test_a_line_that_says_nothing_certain_is_refused_with_its_cause(text: str, cause: str) -> None:
    with pytest.raises(LineError, match=cause):
        parse_row(text.rstrip("\n").encode())


async def test_index_txt_lines_are_read_with_openssls_quirks(files: Files) -> None:
    rows = await files.read_index(
        "# a comment\n"
        + line(serial="0A")
        + "\n"
        + line(serial="ABC")  # odd length
        + f"V\t{LATER}\t\t0B\tunknown\t/CN=a\\\ttab\n"
        + line("R", "20500101000000Z", "20260101000000Z,superseded", "0C")
        + line(serial="0D").replace("\n", "\r\n")
        + line("E", "200101000000Z", serial="0E")
        + line("V", "200101000000Z", serial="0F")  # openssl ca -updatedb has not run
        + line("R", "200101000000Z", "190101000000Z", serial="10")
        + line(serial="11").rstrip("\n")  # the last line does not end
    )
    assert told(rows) == {0x0A: "good", 0xABC: "good", 0x0B: "good", 0x0C: 4, 0x0D: "good", 0x11: "good"}
    assert files.skipped == [("index.txt: line " + str(n), "expired") for n in (8, 9, 10)]
    assert files.status is not None
    assert files.status.report.files[0].taken == 6


async def test_of_several_lines_about_a_serial_revoked_counts(files: Files) -> None:
    rows = await files.read_index(line("R", revocation="260101000000Z", serial="05") + line(serial="5") * 2)
    assert told(rows) == {5: 0}
    assert files.status is not None
    assert files.status.report.duplicates == 2


async def test_a_bad_line_is_skipped_and_its_serial_not_called_good(files: Files) -> None:
    serials = files.write("serials", "5\n6\n")
    index = files.write("index.txt", line("X", serial="05") + line(serial="07") + "garbage\n")
    rows = await files.read(Sources(issuers=(IssuerFiles(index_txt=(index,), serials=(serials,)),)))
    assert told(rows) == {6: "good", 7: "good"}
    assert files.skipped == [
        ("index.txt: line 1", "unknown status"),
        ("index.txt: line 3", "1 fields instead of 6"),
    ]


async def test_a_file_without_one_usable_line_is_refused_by_name_and_line(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"index\.txt: line 2: 1 fields instead of 6"):
        await files.read_index("\nhello\nworld\n")
    with pytest.raises(ConfigError, match=r"index\.txt: line 1: not a text file"):
        await files.read_index("\0\0\0")
    with pytest.raises(ConfigError, match="no-such: cannot read: No such file"):
        await files.read(Sources(issuers=(IssuerFiles(index_txt=("no-such",)),)))


async def test_an_endless_line_does_not_fill_the_memory(files: Files) -> None:
    path = files.folder / "long"
    path.write_bytes(b"1" * (3 << 20))
    with pytest.raises(ConfigError, match="line 1: longer than"):
        list(lines(path, lambda count: None))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text("VRE\t\\0123456789ABCZ,/=", max_size=80).map(str.encode)))
def test_any_line_is_read_or_refused(text: bytes) -> None:
    for parse in (parse_row, parse_serial_line):
        with contextlib.suppress(LineError):
            parse(text)


# -- lists of serials --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        (b"258", 258),
        (b"0x102", 258),
        (b"0X0102", 258),
        (b"01:02", 258),
        (b" 258 # the web server", 258),
        (b"258#", 258),
        (b"258\r", 258),
        (b"  # nothing", None),
        (b"9" * 48, int("9" * 48)),
    ],
)
def test_a_serial_is_read_in_every_notation(text: bytes, serial: int | None) -> None:
    assert parse_serial_line(text) == serial


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_loses_no_line(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "serials"
    path.write_bytes(mark + b"1\r\n2 \r\n\r\n3")
    found = [(at, parse_serial_line(line)) for at, line in lines(path, lambda _: None)]
    assert found == [(1, 1), (2, 2), (4, 3)]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "serials"
    path.write_bytes("\ufeff".encode(codec) + "1\n2\n".encode(codec))
    with pytest.raises(ConfigError, match="is in UTF-16: save it as ASCII or UTF-8"):
        list(lines(path, lambda _: None))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b"1A2B", "hex without 0x"),
        (b"-5", "not a serial"),
        (b"1 2", "not a serial"),
        (b"9" * 60, "longer than 20 bytes"),
        (b"9" * 6000, "not a serial"),
        ("٣".encode(), "not a serial"),
    ],
)
def test_what_is_no_serial_is_refused(text: bytes, cause: str) -> None:
    with pytest.raises(LineError, match=cause):
        parse_serial_line(text)


async def test_C58_good_is_said_of_issued_serials_only(files: Files) -> None:
    content = der(crl([revoked(2, R.key_compromise), revoked(9)]))
    assert told(await files.read_crls(content)) == {2: 1, 9: 0}
    assert files.status is not None
    assert "only revoked certificates get a response" in files.status.report.remarks[0]
    rows = await files.read_crls(content, serials="1\n2\n0x3\n3\n")
    assert told(rows) == {1: "good", 2: 1, 3: "good", 9: 0}
    assert files.status.report.remarks == []
    assert files.status.report.duplicates == 1


async def test_serials_without_anything_that_says_what_is_revoked_are_refused(files: Files) -> None:
    path = files.write("serials", "1\n")
    with pytest.raises(ConfigError, match=r"no source of revocations for .*Example CA"):
        await files.read(Sources(issuers=(IssuerFiles(serials=(path,)),)))


# -- CRLs --------------------------------------------------------------------------------------------


async def test_C63_every_reason_and_the_date_of_a_crl_entry_are_carried(files: Files) -> None:
    reasons = {
        R.unspecified: 0,
        R.key_compromise: 1,
        R.ca_compromise: 2,
        R.affiliation_changed: 3,
        R.superseded: 4,
        R.cessation_of_operation: 5,
        R.certificate_hold: 6,
        R.privilege_withdrawn: 9,
        R.aa_compromise: 10,
    }
    entries = [revoked(100 + number, reason) for reason, number in reasons.items()]
    rows = await files.read_crls(der(crl([*entries, revoked(200)])))
    assert told(rows) == {100 + number: number for number in reasons.values()} | {200: 0}
    assert {row.revoked_at for row in rows.values()} == {REVOKED_AT}


@pytest.mark.parametrize("encode", [der, pem])
async def test_a_crl_is_read_in_der_and_pem(files: Files, encode: Any) -> None:
    assert told(await files.read_crls(encode(crl([revoked(7)])))) == {7: 0}


async def test_one_file_holds_the_crls_of_several_issuers(files: Files) -> None:
    both = b"text\n" + pem(crl([revoked(7)])) + b"more\n" + pem(crl([revoked(8)], chain=OTHER))
    rows = await files.read(
        Sources(crls=files.crls(both), issuers=(IssuerFiles(), IssuerFiles())), (CHAIN.ca, OTHER.ca)
    )
    assert {serial: row.aki for serial, row in rows.items()} == {
        7: CHAIN.signer().aki,
        8: OTHER.signer().aki,
    }


async def test_an_empty_crl_revokes_nothing(files: Files) -> None:
    assert await files.read_crls(der(crl([]))) == {}
    assert told(await files.read_crls(der(crl([])), serials="5\n")) == {5: "good"}


async def test_of_two_editions_of_a_crl_the_newer_one_counts(files: Files) -> None:
    old = crl([revoked(1, R.certificate_hold), revoked(2)], number=1, start=NOW - timedelta(days=2))
    new = crl([revoked(2)], number=2)
    rows = await files.read_crls(der(new), der(old), der(new), serials="1\n2\n")
    assert told(rows) == {1: "good", 2: 0}
    assert files.skipped == [("1.crl", "replaced by a newer CRL")]


async def test_the_parts_of_a_divided_crl_add_up_and_good_comes_with_a_warning(files: Files) -> None:
    one = crl([revoked(1)], extensions=(part("http://ca.example/1.crl"),))
    two = crl([revoked(2)], extensions=(part("http://ca.example/2.crl"),))
    assert told(await files.read_crls(der(one), der(two), serials="1\n2\n3\n")) == {1: 0, 2: 0, 3: "good"}
    assert files.status is not None
    assert "covers only part of the CA's certificates" in files.status.report.remarks[0]


async def test_delta_crls_add_change_and_remove(files: Files) -> None:
    complete = crl([revoked(1, R.certificate_hold), revoked(2, R.certificate_hold), revoked(3)], number=10)
    first = crl([revoked(1, R.remove_from_crl), revoked(4, R.certificate_hold)], number=11, base=10)
    second = crl(
        [revoked(2, R.key_compromise), revoked(4, R.remove_from_crl), revoked(5)], number=12, base=11
    )
    serials = "1\n2\n3\n4\n5\n6\n"
    assert told(await files.read_crls(der(first), der(complete), serials=serials)) == {
        1: "good",
        2: 6,
        3: 0,
        4: 6,
        5: "good",
        6: "good",
    }
    assert told(await files.read_crls(der(second), der(complete), der(first), serials=serials)) == {
        1: "good",
        2: 1,
        3: 0,
        4: "good",
        5: 0,
        6: "good",
    }


async def test_deltas_that_say_nothing_new_are_left_out(files: Files) -> None:
    complete = crl([revoked(3)], number=12)
    old = crl([revoked(3, R.remove_from_crl)], number=11, base=10)
    older = crl([revoked(4)], number=13, base=12)
    newest = crl([revoked(5)], number=14, base=12)
    rows = await files.read_crls(der(complete), der(old), der(older), der(newest), serials="3\n4\n5\n")
    assert told(rows) == {3: 0, 4: "good", 5: 0}
    assert sorted(files.skipped) == [(f"{n}.crl", "replaced by a newer CRL") for n in (1, 2)]


async def test_a_removed_serial_is_not_good_without_being_issued(files: Files) -> None:
    complete = crl([revoked(1, R.certificate_hold)], number=1)
    delta = crl([revoked(1, R.remove_from_crl)], number=2, base=1)
    assert await files.read_crls(der(complete), der(delta)) == {}


async def test_remove_from_crl_in_a_complete_crl_is_neither_good_nor_revoked(files: Files) -> None:
    rows = await files.read_crls(der(crl([revoked(1, R.remove_from_crl), revoked(2)])), serials="1\n2\n3\n")
    assert told(rows) == {2: 0, 3: "good"}
    assert files.skipped == [("0.crl: serial 0x1", "removeFromCRL in a complete CRL")]


async def test_an_invalidity_date_is_left_out_and_counted(files: Files) -> None:
    entry = revoked(1, R.key_compromise, extensions=((x509.InvalidityDate(datetime(2026, 1, 1)), False),))  # noqa: DTZ001
    assert told(await files.read_crls(der(crl([entry])))) == {1: 1}
    assert files.status is not None
    assert files.status.report.files[0].notes == {"invalidity date ignored": 1}


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
ISSUER = x509.CertificateIssuer([x509.DirectoryName(OTHER.ca.subject)])


async def test_an_entry_whose_reason_does_not_exist_is_revoked_without_one(files: Files) -> None:
    seven = x509.UnrecognizedExtension(x509.CRLReason.oid, b"\x0a\x01\x07")
    assert told(await files.read_crls(der(crl([revoked(1, extensions=((seven, False),))])))) == {1: 0}
    assert files.status is not None
    assert files.status.report.files[0].notes == {"unreadable extensions, imported without a reason": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: der(crl([], chain=OTHER)), "issued by .*Other CA.*none of the given CA certificates"),
        (lambda: der(crl([], key=OTHER.ca_key)), "its signature is not that of"),
        (lambda: der(crl([revoked(1)]))[:-1] + b"\x00", "0.crl: .*(signature is not|not a CRL)"),
        (lambda: der(crl([revoked(1)]))[:-9], "0.crl: not a CRL, or damaged"),
        (lambda: der(crl([revoked(1)])) + b"x", "0.crl: not a CRL, or damaged"),
        (lambda: pem(crl([revoked(1)]))[:-20], "PEM block of a CRL is not whole: the file was cut off"),
        (lambda: pem(crl([revoked(1)])) + pem(crl([revoked(2)]))[:-20], "is not whole"),
        (lambda: pem(crl([revoked(1)]))[:-60] + pem(crl([revoked(2)])), "is not whole"),
        (lambda: pem(crl([revoked(1)])).replace(b"END X509", b"END"), "is not whole"),
        (lambda: b"hello", "0.crl: not a CRL: neither DER nor a PEM block"),
        (lambda: b"", "0.crl: not a CRL"),
        (lambda: der(crl([], end=NOW - timedelta(hours=1))), "expired on .*-allow-expired"),
        (lambda: der(crl([], start=NOW + timedelta(hours=1))), "is in the future: check the clock"),
        (lambda: der(crl([], extensions=(part(indirect_crl=True),))), "indirect CRL"),
        (lambda: der(crl([revoked(1, extensions=((ISSUER, True),))])), "indirect CRLs cannot be used"),
        (
            lambda: der(crl([], extensions=(part(only_some_reasons=frozenset([R.key_compromise])),))),
            "only some revocation reasons",
        ),
        (
            lambda: der(crl([], extensions=(part(only_contains_attribute_certs=True),))),
            "only attribute certificates",
        ),
        (lambda: der(crl([], extensions=((UNKNOWN, True),))), "critical extension 1.2.3.4"),
        (
            lambda: der(crl([revoked(1, extensions=((UNKNOWN, True),))])),
            "entry 1 has the unknown critical extension 1.2.3.4",
        ),
        (lambda: der(crl([], number=5, base=4)), "a delta CRL without its complete CRL"),
        (lambda: pem(crl([], number=3)) + pem(crl([], number=5, base=4)), "to CRL number 4, but .* is 3"),
        (lambda: pem(crl([], number=None)) + pem(crl([], number=5, base=4)), "has no CRL number"),
        (lambda: pem(crl([], number=3)) + pem(crl([], number=None, base=3)), "delta CRL without a CRL num"),
    ],
)
async def test_a_crl_that_cannot_be_used_ends_the_import(files: Files, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        await files.read_crls(content(), serials="1\n")
    assert "\n" not in str(caught.value)


async def test_extensions_that_are_known_or_not_critical_do_not_matter(files: Files) -> None:
    entry = revoked(1, extensions=((UNKNOWN, False),))
    assert told(await files.read_crls(der(crl([entry], extensions=((UNKNOWN, False),))))) == {1: 0}


async def test_an_expired_crl_is_used_when_that_is_asked_for(files: Files) -> None:
    content = der(crl([revoked(1)], end=NOW - timedelta(hours=1)))
    assert told(await files.read_crls(content, allow_expired=True)) == {1: 0}


async def test_what_a_crl_says_counts_until_its_next_update(files: Files) -> None:
    second = NOW.replace(microsecond=0)  # as in a CRL
    soon, later = second + timedelta(hours=5), second + timedelta(days=7)
    complete = der(crl([revoked(1)], number=1, end=later))
    rows = await files.read_crls(complete, serials="1\n2")
    assert {row.until for row in rows.values()} == {later}
    delta = der(crl([revoked(2)], number=2, base=1, end=soon))
    rows = await files.read_crls(complete, delta, serials="1\n2\n3")
    assert {row.until for row in rows.values()} == {soon}
    rows = await files.read_crls(complete, delta, serials="1\n2", allow_expired=True)
    assert {row.until for row in rows.values()} == {None}
    rows = await files.read_index(line())
    assert rows[1].until is None


async def test_a_ca_that_may_not_sign_crls_is_refused(files: Files) -> None:
    key = CHAIN.ca_key
    plain = make_certificate(CHAIN.ca.subject, key, CHAIN.ca.subject, key, serial=3)
    with pytest.raises(ConfigError, match="may not sign CRLs: its keyUsage does not include cRLSign"):
        await files.read(Sources(crls=files.crls(der(crl([]))), issuers=(IssuerFiles(),)), [plain])


@pytest.mark.parametrize("kind", ["rsa-2048", "ecdsa-384", "ed25519"])
async def test_signatures_of_every_usual_kind_are_verified(files: Files, kind: str) -> None:
    chain = make_chain(kind, name=f"{kind} CA", number=2)
    sources = Sources(crls=files.crls(der(crl([revoked(4)], chain=chain))), issuers=(IssuerFiles(),))
    assert told(await files.read(sources, [chain.ca])) == {4: 0}


# -- several sources ---------------------------------------------------------------------------------


async def test_a_crl_counts_before_index_txt_and_a_contradiction_is_counted(files: Files) -> None:
    rows = await files.read_index(
        line(serial="01") + line("R", revocation="260101000000Z,superseded", serial="02") + line(serial="03"),
        crls=files.crls(der(crl([revoked(1, R.key_compromise), revoked(2, R.ca_compromise)]))),
    )
    assert told(rows) == {1: 1, 2: 2, 3: "good"}
    assert rows[2].revoked_at == REVOKED_AT
    assert files.status is not None
    assert files.status.report.conflicts == 1


async def test_the_same_serial_of_two_issuers_is_two_certificates(files: Files) -> None:
    one = files.write("one", line("R", revocation="260101000000Z", serial="05"))
    two = files.write("two", line(serial="05"))
    status = FileStatus(
        Sources(issuers=(IssuerFiles(index_txt=(one,)), IssuerFiles(index_txt=(two,)))),
        lambda: [CHAIN.ca, OTHER.ca],
        clock=ManualClock(NOW),
        folder=files.folder,
    )
    found = {(row.aki, row.status) async for rows in status.stream_status() for row in rows}
    assert found == {(CHAIN.signer().aki, CertStatus.REVOKED), (OTHER.signer().aki, CertStatus.GOOD)}


async def test_any_number_of_serials_needs_little_memory(files: Files) -> None:
    count = 200_000
    index = files.write("index.txt", line("R", revocation="260101000000Z", serial="01"))
    serials = files.write("serials", "\n".join(str(n << 64) for n in range(1, count)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = 0
    status = FileStatus(
        Sources(issuers=(IssuerFiles(index_txt=(index,), serials=(serials,)),)),
        lambda: [CHAIN.ca],
        clock=ManualClock(NOW),
        folder=files.folder,
        buffer_bytes=1 << 10,
    )
    async for chunk in status.stream_status(chunk_rows=100):
        assert len(chunk) <= 100
        rows += len(chunk)
    assert rows == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB; the rows are 80 MB
    left = sorted(path.name for path in files.folder.iterdir())
    assert left == ["index.txt", "serials", "sources.copy.json", "sources.json"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, (1 << 160) - 1), st.sampled_from(Claim)), max_size=60
    )
)
def test_what_is_put_into_buckets_comes_out_in_order(
    tmp_path_factory: pytest.TempPathFactory, put: list[tuple[int, int, Claim]]
) -> None:
    with SerialBuckets(tmp_path_factory.getbasetemp(), 62) as buckets:
        for issuer, serial, says in put:
            buckets.put(issuer, serial, says)
        for bucket in range(serial_buckets.BUCKETS):
            found = [(*serial_buckets.split_key(key), says) for key, says, _, _ in buckets.bucket(bucket)]
            assert found == [entry for entry in put if hash(entry[1]) % serial_buckets.BUCKETS == bucket]


async def test_a_full_disk_is_one_clear_error(files: Files) -> None:
    index = files.write("index.txt", line())
    status = FileStatus(
        Sources(issuers=(IssuerFiles(index_txt=(index,)),)),
        lambda: [CHAIN.ca],
        clock=ManualClock(NOW),
        folder=files.folder / "gone",
        buffer_bytes=31,
    )
    with pytest.raises(OCSPDError, match="gone: cannot write a temporary file"):
        await status.check()


async def test_a_change_of_any_file_makes_the_cursor_of_the_feed_lost(files: Files) -> None:
    path = files.write("index.txt", line())
    status = FileStatus(
        Sources(issuers=(IssuerFiles(index_txt=(path,)),)),
        lambda: [CHAIN.ca],
        clock=ManualClock(NOW),
        folder=files.folder,
    )
    feed = status.change_feed()
    cursor = await feed.current_cursor()
    assert await feed.read(cursor, 10) == ([], cursor)
    waiting = asyncio.create_task(feed.wait(30))
    await asyncio.sleep(0)
    files.write("index.txt", line() + line(serial="02"))
    await asyncio.wait_for(waiting, 120)
    with pytest.raises(CursorLostError, match="a file has changed"):
        await feed.read(cursor, 10)
    assert await feed.trim(cursor, timedelta()) == 0
    await feed.close()


# -- older editions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "age", "base"),
    [
        (4, timedelta(hours=3), None),
        (4, timedelta(), None),
        (5, timedelta(hours=3), None),
        (None, timedelta(hours=3), None),
    ],
)
async def test_S14_an_older_crl_put_in_place_is_refused_by_name(
    files: Files, number: int | None, age: timedelta, base: int | None
) -> None:
    start = NOW - timedelta(hours=2)
    newest = None if number is None else 5
    assert told(await files.read_crls(der(crl([revoked(7)], number=newest, start=start)), serials="7\n")) == {
        7: 0
    }
    older = der(crl([], number=number, base=base, start=start - age))
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"0\.crl: is older than the CRL used before .*remove .*sources\.json"
        ):
            await files.read_crls(older, serials="7\n")
    newer = der(crl([], number=newest and 6, start=start + timedelta(hours=1)))
    assert told(await files.read_crls(newer, serials="7\n")) == {7: "good"}
    with pytest.raises(ConfigError, match="older"):
        await files.read_crls(older, serials="7\n")
    (files.folder / "sources.json").unlink()
    assert told(await files.read_crls(older, serials="7\n")) == {7: "good"}


async def test_S14_a_delta_crl_left_out_again_is_noticed(files: Files) -> None:
    base = der(crl([], number=5))
    delta = der(crl([revoked(7)], number=6, base=5, start=NOW - timedelta(hours=1)))
    assert told(await files.read_crls(base, delta, serials="7\n")) == {7: 0}
    with pytest.raises(ConfigError, match="number 6"):
        await files.read_crls(base, serials="7\n")


async def test_S14_the_scopes_and_issuers_of_crls_are_remembered_apart(files: Files) -> None:
    one, two = ((part(f"http://ca.example/{number}.crl"),) for number in (1, 2))
    start = NOW - timedelta(hours=1)
    newer = der(crl([revoked(7)], number=9, start=start, extensions=one))
    other = der(crl([revoked(8)], number=2, extensions=two))
    foreign = der(crl([], number=1, chain=OTHER))
    sources = Sources(crls=files.crls(newer, other, foreign), issuers=(IssuerFiles(), IssuerFiles()))
    for _ in range(2):
        assert set(await files.read(sources, (CHAIN.ca, OTHER.ca))) == {7, 8}


async def test_S14_an_older_index_txt_put_in_place_is_refused_by_name(files: Files) -> None:
    older = line(serial="07") + line("R", revocation="260101000000Z", serial="08")
    newer = line("R", revocation="260201000000Z", serial="07") + line(
        "R", revocation="260101000000Z", serial="08"
    )
    await files.read_index(older)
    assert told(await files.read_index(newer)) == {7: 0, 8: 0}
    assert told(await files.read_index(newer + line(serial="09"))) == {7: 0, 8: 0, 9: "good"}
    with pytest.raises(
        ConfigError, match=r"index\.txt: is older than the index\.txt used before.*2026-02-01"
    ):
        await files.read_index(older)
    assert told(await files.read_index(newer)) == {7: 0, 8: 0}


SPOILT = [b"", b"[1]", b'{"x": [1]}', b'{"x": [1, 1e999]}', b'{"x": [-1, 5]}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", SPOILT)
async def test_S14_a_spoilt_memory_of_what_was_read_lets_no_older_crl_in(
    files: Files, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    start = NOW - timedelta(hours=2)
    newest = der(crl([revoked(7)], number=5, start=start))
    older = der(crl([], number=4, start=start - timedelta(hours=1)))
    assert told(await files.read_crls(newest, serials="7\n")) == {7: 0}
    good = (files.folder / "sources.json").read_bytes()
    files.write("sources.json", content)
    with pytest.raises(ConfigError, match="older than the CRL used before"):
        await files.read_crls(older, serials="7\n")
    assert told(await files.read_crls(newest, serials="7\n")) == {7: 0}
    assert (files.folder / "sources.json").read_bytes() == good
    assert "sources.json: cannot be read" in caplog.text
    for name in ("sources.json", "sources.copy.json"):
        files.write(name, content)
    for each in (older, newest):
        with pytest.raises(ConfigError, match=r"sources\.json: cannot be read .*or remove it"):
            await files.read_crls(each, serials="7\n")
    (files.folder / "sources.json").unlink()
    assert told(await files.read_crls(newest, serials="7\n")) == {7: 0}
    with pytest.raises(ConfigError, match="older than the CRL used before"):
        await files.read_crls(older, serials="7\n")


async def test_S14_a_lower_number_with_a_later_time_is_an_older_crl(files: Files) -> None:
    start = NOW - timedelta(hours=2)
    assert told(await files.read_crls(der(crl([revoked(7)], number=5, start=start)), serials="7\n")) == {7: 0}
    for number in (4, None):
        later = der(crl([], number=number, start=start + timedelta(hours=1)))
        with pytest.raises(ConfigError, match=r"older than the CRL used before \(number 5"):
            await files.read_crls(later, serials="7\n")


async def test_S14_numbers_of_20_bytes_are_remembered(files: Files) -> None:
    start = NOW - timedelta(hours=2)
    newest = der(crl([revoked(7)], number=(1 << 159) - 1, start=start))
    for _ in range(2):
        assert told(await files.read_crls(newest, serials="7\n")) == {7: 0}
