from __future__ import annotations

import logging
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from ocspd.clock import ManualClock
from ocspd.errors import CodedError, ConfigError
from ocspd.model import CertStatus
from ocspd.pki import der
from ocspd.pki.certid import issuer_hashes
from ocspd.pki.ocsp import OCSPSigner, SignerNames
from ocspd.pki.relying_party import ResponseChecker
from ocspd.pki.signing_policy import SigningPolicy, refresh_at
from tests.tools import need

from .chain import (
    NOW,
    OPENSSL_KINDS,
    Chain,
    common_name,
    make_certificate,
    make_chain,
    make_key,
    pem,
)

if TYPE_CHECKING:
    from pathlib import Path

HOUR = timedelta(hours=1)


def refused(chain: Chain, responder: Any, key: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        OCSPSigner(
            chain.ca,
            responder,
            key,
            clock=options.pop("clock", ManualClock(NOW)),
            policy=SigningPolicy(**options),
            names=SignerNames("ca.pem", "ocsp.pem", "ocsp-key.pem"),
        )
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_C03_C16_a_responder_certificate_of_another_issuer_is_refused() -> None:
    chain, other = make_chain(), make_chain(name="Other CA", number=1)
    text = refused(chain, other.responder, other.responder_key)
    assert text.startswith("ocsp.pem (CN=OCSP of Other CA): was issued by ")
    assert "ca.pem (CN=Example CA,O=ACME,C=FR)" in text


def test_C16_a_responder_certificate_signed_by_another_key_of_the_same_name_is_refused() -> None:
    chain, impostor = make_chain(), make_chain(name="Example CA", number=2)
    text = refused(chain, impostor.responder, impostor.responder_key)
    assert "its signature was not made by the key of ca.pem" in text


def test_C03_a_responder_certificate_without_the_usage_is_refused() -> None:
    chain = make_chain()
    plain = make_certificate(
        common_name("no usage"), make_key("ecdsa-256", 3), chain.ca.subject, chain.ca_key, serial=9
    )
    text = refused(chain, plain, make_key("ecdsa-256", 3))
    assert "ocsp.pem (CN=no usage): does not have the extended key usage OCSPSigning" in text
    assert '"ocsp signing"' in text


def test_a_key_of_another_certificate_is_refused() -> None:
    chain = make_chain()
    for key in (chain.ca_key, make_key("rsa-2048")):
        text = refused(chain, chain.responder, key)
        assert text.startswith("ocsp-key.pem: is not the private key of ocsp.pem (CN=OCSP of Example CA)")


def test_an_expired_or_future_responder_certificate_is_refused() -> None:
    chain = make_chain()
    late = chain.responder.not_valid_after_utc
    text = refused(chain, chain.responder, chain.responder_key, clock=ManualClock(late))
    assert f"expired on {late:%Y-%m-%dT%H:%M:%SZ}: issue a new one" in text
    early = chain.responder.not_valid_before_utc - timedelta(seconds=1)
    text = refused(chain, chain.responder, chain.responder_key, clock=ManualClock(early))
    assert "is not valid before" in text
    assert "check the clock" in text


def test_a_signer_stops_when_its_certificate_expires() -> None:
    chain = make_chain()
    clock = ManualClock(chain.responder.not_valid_after_utc - timedelta(seconds=1))
    signer = chain.signer(clock=clock)
    signer.sign(serial=5)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(ConfigError, match=r"OCSP of Example CA.*expired on"):
        signer.sign(serial=5)


def test_a_key_kind_that_no_client_checks_is_refused() -> None:
    chain = make_chain()
    small = make_key("ecdsa-224")
    assert "ocsp-key.pem: keys of this kind" in refused(chain, chain.responder, small)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"responder_id": "hash"}, "unknown responder id 'hash': use key or name"),
        ({"certid_hashes": ("sha1", "md5")}, "unknown CertID hash 'md5'"),
        ({"certid_hashes": ()}, "no CertID hash given"),
        ({"validity": timedelta(hours=1)}, "over before it starts"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    chain = make_chain()
    assert text in refused(chain, chain.responder, chain.responder_key, **options)


def test_C17_C45_C72_a_responder_certificate_without_nocheck_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chain = make_chain()
    key = make_key("ecdsa-256", 3)
    responder = make_certificate(
        common_name("bare"),
        key,
        chain.ca.subject,
        chain.ca_key,
        serial=9,
        ocsp=True,
        nocheck=False,
        digital_signature=False,
    )
    with caplog.at_level(logging.WARNING, "ocspd"):
        signer = OCSPSigner(chain.ca, responder, key, SigningPolicy(), ManualClock(NOW))
        signer.log_warnings()
    assert len(signer.warnings) == 2
    assert [record.getMessage() for record in caplog.records] == list(signer.warnings)
    assert "CN=bare): has no id-pkix-ocsp-nocheck" in signer.warnings[0]
    assert "digitalSignature" in signer.warnings[1]
    assert signer.spec().open(NOW).warnings == signer.warnings


def test_C62_a_CA_that_signs_without_digitalSignature_is_warned_of() -> None:
    key = make_key("ecdsa-256", 3)
    name = common_name("old CA")
    ca = make_certificate(name, key, name, key, serial=1, ca=True, digital_signature=False)
    signer = OCSPSigner(ca, ca, key, SigningPolicy(), ManualClock(NOW))
    assert any("BR 7.1.2.10.7" in warning for warning in signer.warnings)


def test_C60_a_proper_chain_gives_no_warning() -> None:
    assert make_chain().signer().warnings == ()
    assert make_chain().signer(direct=True).warnings == ()


def test_C55_a_validity_outside_of_the_baseline_requirements_is_warned_of() -> None:
    for hours in (7, 241):
        (warning,) = make_chain().signer(validity=hours * HOUR).warnings
        assert "8 hours to 10 days" in warning
    assert make_chain().signer(validity=8 * HOUR).warnings == ()
    assert make_chain().signer(validity=240 * HOUR).warnings == ()


MOMENT = datetime(2026, 11, 23, 22, 43, 59, 123_456, tzinfo=UTC)


def test_C07_C47_times_are_those_of_cfssl_less_one_second() -> None:
    batch = make_chain().signer().batch(MOMENT)
    assert batch.produced_at == datetime(2026, 11, 23, 22, 43, tzinfo=UTC)
    assert batch.this_update == datetime(2026, 11, 23, 22, tzinfo=UTC)
    assert batch.next_update == datetime(2026, 11, 27, 21, 59, 59, tzinfo=UTC)


def test_thisUpdate_is_never_in_the_future_also_when_the_clock_steps_back() -> None:
    clock = ManualClock(NOW)
    signer = make_chain().signer(clock=clock)
    for step in (0, -7, -3600, -86_399):
        clock.instant = NOW + timedelta(seconds=step)
        batch = signer.batch()
        assert batch.this_update <= batch.produced_at <= clock.now()


def test_thisUpdate_can_be_as_fine_as_the_minute() -> None:
    batch = make_chain().signer(this_update_step=timedelta(minutes=1)).batch(MOMENT)
    assert batch.this_update == batch.produced_at == datetime(2026, 11, 23, 22, 43, tzinfo=UTC)


@pytest.mark.parametrize("direct", [False, True], ids=["delegated", "direct"])
def test_C71_nextUpdate_is_not_after_the_notAfter_of_the_signing_certificate(*, direct: bool) -> None:
    chain = make_chain()
    end = (chain.ca if direct else chain.responder).not_valid_after_utc
    clock = ManualClock(end - 5 * HOUR)
    signer = chain.signer(clock=clock, direct=direct)
    assert signer.batch().next_update == end
    assert f"expires on {end:%Y-%m-%dT%H:%M:%SZ}" in signer.warnings[0]


def test_nextUpdate_is_not_after_the_end_of_what_is_known() -> None:
    signer = make_chain().signer()
    until = signer.clock.now() + HOUR
    assert signer.batch(until=until).next_update == until
    assert signer.batch(until=until + 1000 * HOUR).next_update == signer.batch().next_update
    with pytest.raises(ConfigError, match=r"the CRL of .* expired on .*Z: give a current one"):
        signer.batch(until=signer.clock.now())


def test_C55_the_interval_with_its_last_second_is_the_validity_asked_for() -> None:
    batch = make_chain().signer(validity=240 * HOUR).batch()
    assert batch.next_update - batch.this_update + timedelta(seconds=1) == timedelta(days=10)


@pytest.mark.parametrize(
    ("hours", "due"),
    [(8, 4), (15, 7.5), (16, 8), (24, 12), (96, 48), (240, 96), (192, 96)],
)
def test_C56_C70_refresh_is_due_at_half_of_life_within_the_baseline_requirements(
    hours: int, due: float
) -> None:
    this_update = datetime(2026, 11, 23, tzinfo=UTC)
    next_update = this_update + hours * HOUR - timedelta(seconds=1)
    # an answer of 16 h is due 8 h before its nextUpdate, which is one second before its end
    expected = this_update + due * HOUR - timedelta(seconds=hours == 16)
    assert refresh_at(this_update, next_update) == expected


@given(hours=st.integers(8, 240), life=st.floats(0, 1))
def test_C56_no_refresh_point_is_later_than_the_baseline_requirements_allow(hours: int, life: float) -> None:
    this_update = datetime(2026, 11, 23, tzinfo=UTC)
    next_update = this_update + hours * HOUR - timedelta(seconds=1)
    due = refresh_at(this_update, next_update, life=life)
    assert this_update <= due < next_update
    if hours < 16:
        assert due <= this_update + hours * HOUR / 2
    else:
        assert due <= next_update - 8 * HOUR
        assert due <= this_update + timedelta(days=4)


def test_a_signer_made_again_from_its_spec_signs_the_same() -> None:
    chain = make_chain("ed25519")
    for direct in (False, True):
        signer = chain.signer(direct=direct, responder_id="name", validity=30 * HOUR)
        again = signer.spec().open(NOW)
        assert again.sign(serial=77) == signer.sign(serial=77)
        assert again.policy == signer.policy


def test_a_spec_does_not_show_its_key() -> None:
    assert "PRIVATE" not in repr(make_chain().signer().spec())


def test_aki_is_what_certdb_rows_of_the_issuer_carry() -> None:
    chain = make_chain()
    assert chain.signer().aki == chain.leaf.extensions[3].value.public_bytes().hex()[-40:]
    key, name = make_key("ecdsa-256", 3), common_name("CA without SKI")
    bare = make_certificate(name, key, name, key, serial=1, ca=True, with_ski=False)
    assert OCSPSigner(bare, bare, key, SigningPolicy(), ManualClock(NOW)).aki == ""


def test_certificates_of_other_issuers_are_told_apart_with_cfssls_codes() -> None:
    chain, other = make_chain(), make_chain(name="Other CA", number=1)
    impostor = make_chain(name="Example CA", number=2)
    signer = chain.signer()
    signer.check_certificate(chain.leaf)
    with pytest.raises(CodedError, match=r'"code":8100,"message":"Certificate not issued by this issuer"'):
        signer.check_certificate(other.leaf)
    with pytest.raises(CodedError, match=r'"code":8200,.*does not verify'):
        signer.check_certificate(impostor.leaf)


def ask_openssl(folder: Path, data: bytes, certid_hash: str) -> str:
    (folder / "answer.der").write_bytes(data)
    result = subprocess.run(
        [
            need("openssl"), "ocsp", "-respin", "answer.der", "-issuer", "ca.pem", f"-{certid_hash}",
            "-cert", "leaf.pem", "-CAfile", "ca.pem", "-no_nonce",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Response verify OK" in result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize("kind", OPENSSL_KINDS)
@pytest.mark.parametrize("direct", [False, True], ids=["delegated", "direct"])
def test_C02_openssl_verifies_good_and_revoked(tmp_path: Path, kind: str, *, direct: bool) -> None:
    chain = make_chain(kind)
    chain.write(tmp_path)
    serial = chain.leaf.serial_number
    batch = chain.signer(direct=direct).batch()
    for certid_hash in ("sha1", "sha256"):
        good = ask_openssl(tmp_path, batch.sign(serial, certid_hash=certid_hash), certid_hash)
        assert "leaf.pem: good" in good
    revoked = ask_openssl(tmp_path, batch.sign(serial, CertStatus.REVOKED, 1, MOMENT), "sha1")
    assert "leaf.pem: revoked" in revoked
    assert "Reason: keyCompromise" in revoked
    assert "Revocation Time: Nov 23 22:43:59 2026 GMT" in revoked


@pytest.mark.parametrize("responder_id", ["key", "name"])
def test_C13_openssl_finds_the_signer_by_key_and_by_name(tmp_path: Path, responder_id: str) -> None:
    chain = make_chain()
    chain.write(tmp_path)
    for certid_hash in ("sha1", "sha256", "sha384", "sha512"):
        answer = chain.signer(responder_id=responder_id).sign(
            serial=chain.leaf.serial_number, certid_hash=certid_hash
        )
        assert "leaf.pem: good" in ask_openssl(tmp_path, answer, certid_hash)


def ask_gnutls(folder: Path, answer: bytes, trust: str) -> str:
    (folder / "answer.der").write_bytes(answer)
    command = [need("ocsptool"), "--verify-response", "--load-response", "answer.der", "--load-trust", trust]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("direct", [False, True], ids=["delegated", "direct"])
@pytest.mark.parametrize("embed_ca", [False, True])
def test_C13_gnutls_and_openssl_find_the_signer_by_default(
    tmp_path: Path, *, direct: bool, embed_ca: bool
) -> None:
    chain = make_chain()
    chain.write(tmp_path)
    signer = chain.signer(direct=direct, embed_ca=embed_ca)
    assert signer.responder_id == ("name" if direct else "key")
    data = signer.sign(serial=chain.leaf.serial_number)
    assert "leaf.pem: good" in ask_openssl(tmp_path, data, "sha1")
    assert "Success" in ask_gnutls(tmp_path, data, "ca.pem")
    answer = ocsp.load_der_ocsp_response(data)
    expected = [] if direct else [chain.responder]
    assert answer.certificates == [*expected, *([chain.ca] if embed_ca else [])]
    ResponseChecker([chain.ca], int(NOW.timestamp())).check(
        data, ("sha1", *issuer_hashes(chain.ca, "sha1")), chain.leaf.serial_number
    )
    again = signer.spec().open(NOW)
    assert (again.responder_id, again.policy) == (signer.responder_id, signer.policy)


def test_an_embedded_ca_certificate_is_all_a_client_without_it_needs(tmp_path: Path) -> None:
    chain = make_chain()
    data = chain.signer(direct=True, embed_ca=True).sign(serial=chain.leaf.serial_number)
    (tmp_path / "answer.der").write_bytes(data)
    (tmp_path / "ca.pem").write_bytes(pem(chain.ca))
    command = [need("openssl"), "ocsp", "-respin", "answer.der", "-CAfile", "ca.pem", "-no_nonce"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Response verify OK" in result.stderr


def cfssl_sign(folder: Path, *words: str) -> ocsp.OCSPResponse:
    import base64
    import json

    result = subprocess.run(
        [
            need("cfssl"), "ocspsign", "-ca", "ca.pem", "-responder", "responder.pem",
            "-responder-key", "responder-key.pem", "-cert", "leaf.pem", *words,
        ],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ocsp.load_der_ocsp_response(base64.b64decode(json.loads(result.stdout)["ocspResponse"]))


@pytest.mark.parametrize("kind", ["rsa-2048", "ecdsa-256", "ecdsa-384"])
@pytest.mark.parametrize("status", ["good", "revoked", "unknown"])
def test_responses_have_the_fields_of_cfssls(tmp_path: Path, kind: str, status: str) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    chain = make_chain(kind)
    chain.write(tmp_path)
    (tmp_path / "responder-key.pem").write_bytes(
        chain.responder_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    revoked = status == "revoked"
    words = ("-reason", "4", "-revoked-at", "2026-01-02") if revoked else ()
    theirs = cfssl_sign(tmp_path, "-status", status, *words)
    signer = chain.signer(responder_id="name", clock=ManualClock(datetime.now(UTC)))
    code = {"good": CertStatus.GOOD, "revoked": CertStatus.REVOKED, "unknown": CertStatus.UNKNOWN}[status]
    ours = ocsp.load_der_ocsp_response(
        signer.sign(
            serial=chain.leaf.serial_number,
            status=code,
            reason=4 if revoked else 0,
            revoked_at=datetime(2026, 1, 2, tzinfo=UTC) if revoked else None,
        )
    )
    for field in (
        "signature_algorithm_oid",
        "responder_name",
        "responder_key_hash",
        "certificates",
        "serial_number",
        "certificate_status",
        "revocation_reason",
        "revocation_time_utc",
        "issuer_name_hash",
        "issuer_key_hash",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.hash_algorithm.name == theirs.hash_algorithm.name
    # the two were made within a minute of each other, on either side of a full hour at worst
    assert abs(ours.this_update_utc - theirs.this_update_utc) in {timedelta(), HOUR}
    assert abs(ours.produced_at_utc - theirs.produced_at_utc) <= timedelta(minutes=1)
    assert ours.next_update_utc is not None
    assert theirs.next_update_utc is not None
    assert theirs.next_update_utc - theirs.this_update_utc == 96 * HOUR
    assert ours.next_update_utc - ours.this_update_utc == 96 * HOUR - timedelta(seconds=1)


def test_a_responder_certificate_with_unreadable_extensions_is_refused() -> None:
    chain = make_chain("ed25519")
    usual = make_certificate(
        common_name("odd"), chain.responder_key, chain.ca.subject, chain.ca_key, serial=9, ocsp=True
    )
    # the extended key usage becomes a second key usage, whose value is no BIT STRING
    tbs = usual.tbs_certificate_bytes.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d0f"))
    signature = der.tlv(der.BIT_STRING, b"\x00" + chain.ca_key.sign(tbs))
    odd = x509.load_der_x509_certificate(der.sequence(tbs, der.children(tbs)[2], signature))
    text = refused(chain, odd, chain.responder_key)
    assert "certificate CN=odd: its extensions cannot be read" in text
