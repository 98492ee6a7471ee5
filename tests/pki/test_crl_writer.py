"""CRLs that are written here, read by others."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ocspd.errors import CodedError
from ocspd.pki import crl_writer
from ocspd.pki.certid import parts_of
from ocspd.pki.crl import load_crls
from ocspd.pki.crl_writer import CRLSigner, Heading
from tests.pki.chain import KEY_KINDS, OPENSSL_KINDS, common_name, make_certificate, make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)
REVOKED = NOW - timedelta(hours=3)
REVOKED_S = int(REVOKED.timestamp())


def signer_of(kind: str, *, with_ski: bool = True) -> CRLSigner:
    name = common_name(f"CRL issuer {kind}")
    key = make_key(kind)
    return CRLSigner(make_certificate(name, key, name, key, serial=1, ca=True, with_ski=with_ski), key)


def heading(number: int = 7, **changes: object) -> Heading:
    values: dict[str, object] = {"number": number, "this_update": NOW, "next_update": NOW + timedelta(days=7)}
    return Heading(**values | changes)  # type: ignore[arg-type]


ENTRIES = [
    crl_writer.entry(serial, REVOKED_S, reason) for serial, reason in ((10, 0), (255, 1), (1 << 158, 6))
]


def test_cryptography_reads_what_was_written() -> None:
    signer = signer_of("ecdsa-256")
    crl = x509.load_der_x509_crl(signer.sign(heading(), ENTRIES))
    assert crl.is_signature_valid(signer.certificate.public_key())  # type: ignore[arg-type]
    assert (crl.last_update_utc, crl.next_update_utc) == (NOW, NOW + timedelta(days=7))
    assert [(one.serial_number, one.revocation_date_utc) for one in crl] == [
        (10, REVOKED),
        (255, REVOKED),
        (1 << 158, REVOKED),
    ]
    assert [[extension.value.reason.name for extension in one.extensions] for one in crl] == [
        [],
        ["key_compromise"],
        ["certificate_hold"],
    ]
    found = {extension.oid.dotted_string: extension for extension in crl.extensions}
    assert set(found) == {"2.5.29.20", "2.5.29.35"}
    assert found["2.5.29.20"].value.crl_number == 7
    identifier = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert found["2.5.29.35"].value.key_identifier == identifier
    assert not any(extension.critical for extension in crl.extensions)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_our_reader_accepts_the_lists_of_every_kind_of_key(kind: str) -> None:
    signer = signer_of(kind)
    (read,) = load_crls(signer.sign(heading(), ENTRIES), "crl")
    info = read.heading([signer.certificate])
    assert (info.number, info.base, info.entries, info.partial) == (7, None, 3, False)
    assert [(one.serial, one.reason, one.revoked_s) for one in read.entries()] == [
        (10, 0, REVOKED_S),
        (255, 1, REVOKED_S),
        (1 << 158, 6, REVOKED_S),
    ]


@pytest.mark.parametrize("kind", OPENSSL_KINDS)
def test_openssl_gnutls_and_pkilint_find_nothing_wrong(tmp_path: Path, kind: str) -> None:
    signer = signer_of(kind)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(signer.certificate.public_bytes(serialization.Encoding.PEM))
    for name, der in (
        ("complete", signer.sign(heading(freshest="http://crl.example/delta.crl"), ENTRIES)),
        ("empty", signer.sign(heading(), [])),
        ("delta", signer.sign(heading(base=5), [crl_writer.removal(10, REVOKED_S)])),
    ):
        path = tmp_path / f"{name}.pem"
        path.write_text(crl_writer.to_pem(der))
        command = [need("openssl"), "crl", "-in", str(path), "-CAfile", str(ca), "-noout"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (checked.returncode, checked.stderr.strip()) == (0, "verify OK")
        lint = [
            sys.executable,
            "-m",
            "pkilint.bin.lint_crl",
            "lint",
            "-t",
            "CRL",
            "-p",
            "PKIX",
            "-s",
            "WARNING",
        ]
        linted = subprocess.run([*lint, path], capture_output=True, text=True, check=False, timeout=120)
        assert (linted.returncode, linted.stdout.strip(), linted.stderr) == (0, "", "")
        if kind != "ed25519":
            gnutls = [
                need("certtool"),
                "--verify-crl",
                "--load-ca-certificate",
                str(ca),
                "--infile",
                str(path),
            ]
            said = subprocess.run(gnutls, capture_output=True, text=True, check=False, timeout=60)
            assert "Verification output: Verified" in said.stdout + said.stderr


def test_the_issuer_is_copied_byte_by_byte() -> None:
    # BMPString and two attributes in one RDN out of DER's order: nobody would encode that again like this
    name = bytes.fromhex("3024312230090603550406130246523015060355040a1e0e004100430043004d004500200053")
    signer = signer_of("ecdsa-256")
    copied = parts_of(signer.certificate).subject
    der = signer.sign(heading(), [])
    assert copied in der
    signer._issuer = name
    assert name in signer.sign(heading(), [])


def test_times_from_2050_are_generalized_and_before_1950_too() -> None:
    late, early = datetime(2050, 1, 1, tzinfo=UTC), datetime(1949, 12, 31, tzinfo=UTC)
    signer = signer_of("ecdsa-256")
    entries = [crl_writer.entry(1, int(each.timestamp())) for each in (late, early)]
    der = signer.sign(
        heading(this_update=datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), next_update=late), entries
    )
    assert b"\x17\x0d491231235959Z\x18\x0f20500101000000Z" in der
    assert b"\x18\x0f20500101000000Z" in entries[0]
    assert b"\x18\x0f19491231000000Z" in entries[1]


@pytest.mark.parametrize("reason", [0, 7, 8, 11, -1, 1000])
def test_a_reason_that_does_not_belong_into_a_complete_list_is_left_out(reason: int) -> None:
    assert crl_writer.entry(5, 0, reason) == crl_writer.entry(5, 0)


def test_a_delta_names_its_base_and_a_complete_list_the_delta() -> None:
    signer = signer_of("ecdsa-256")
    delta = x509.load_der_x509_crl(signer.sign(heading(base=5), [crl_writer.removal(10, REVOKED_S)]))
    base = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert (base.value.crl_number, base.critical) == (5, True)
    (removed,) = delta
    assert removed.extensions.get_extension_for_class(x509.CRLReason).value.reason.name == "remove_from_crl"
    complete = x509.load_der_x509_crl(signer.sign(heading(freshest="http://crl.example/d.crl"), []))
    (point,) = complete.extensions.get_extension_for_class(x509.FreshestCRL).value
    assert [name.value for name in point.full_name or ()] == ["http://crl.example/d.crl"]


def test_a_ca_without_key_identifier_is_known_by_a_computed_one() -> None:
    signer = signer_of("ecdsa-256", with_ski=False)
    assert signer.aki == ""
    assert len(signer.name) == 40
    crl = x509.load_der_x509_crl(signer.sign(heading(), []))
    assert [extension.oid.dotted_string for extension in crl.extensions] == ["2.5.29.20"]


def test_a_key_of_another_ca_is_refused() -> None:
    signer = signer_of("ecdsa-256")
    with pytest.raises(CodedError, match="does not match"):
        CRLSigner(signer.certificate, make_key("ecdsa-256", 2))


def test_a_ca_that_may_not_sign_crls_is_told_of() -> None:
    name, key = common_name("leaf"), make_key("ecdsa-256")
    assert signer_of("ecdsa-256").warnings() == []
    (text,) = CRLSigner(make_certificate(name, key, name, key, serial=1), key).warnings()
    assert "cRLSign" in text


@pytest.mark.parametrize("number", [0, (1 << 159) - 1])
def test_crl_numbers_have_at_most_20_bytes(number: int) -> None:
    signer = signer_of("ecdsa-256")
    crl = x509.load_der_x509_crl(signer.sign(heading(number), []))
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number
    with pytest.raises(ValueError, match="20 bytes"):
        signer.sign(heading(1 << 159), [])
