"""What is accepted as a response, by `index verify` and by the demo."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocspd._der import parse_response
from ocspd.errors import OCSPDError
from ocspd.model import CertStatus
from ocspd.pki import der
from ocspd.pki.certid import issuer_hashes
from ocspd.pki.relying_party import (
    CheckedStatus,
    ErrorStatusError,
    ResponseChecker,
    check_response,
    make_request,
)
from tests.pki.chain import NOW, Chain, common_name, make_certificate, make_chain, make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.pki.ocsp import OCSPSigner

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
KEY = ("sha1", *issuer_hashes(CHAIN.ca, "sha1"))
NOW_S = int(NOW.timestamp())


def several(
    signer: OCSPSigner,
    *answers: bytes,
    certificates: bytes | None = None,
    algorithm: str = "",
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """Sign the SingleResponses of several answers as one; `certificates` is the DER to embed.

    `algorithm` is the OID to name, `digest` what to hash with, instead of what the signer takes.
    """
    parts = [der.children(parse_response(answer).tbs) for answer in answers]
    singles = [single for part in parts for single in der.children(part[2])]
    tbs = der.sequence(parts[0][0], parts[0][1], der.sequence(*singles))
    if certificates is None:
        certificates = signer.responder.public_bytes(Encoding.DER)
    named = der.sequence(der.oid(algorithm)) if algorithm else signer._signature_algorithm
    signature = CHAIN.responder_key.sign(tbs, ec.ECDSA(digest)) if digest else signer._sign_bytes(tbs)
    basic = der.sequence(
        tbs,
        named,
        der.tlv(der.BIT_STRING, b"\0", signature),
        der.tlv(der.context(0, constructed=True), der.sequence(certificates)),
    )
    inner = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1"), der.tlv(der.OCTET_STRING, basic))
    return der.sequence(der.tlv(der.ENUMERATED, b"\0"), der.tlv(der.context(0, constructed=True), inner))


def check(data: bytes, serial: int = 5, now_s: int = NOW_S, **options: tuple[int, int, int]) -> str:
    try:
        ResponseChecker([CHAIN.ca], now_s).check(data, KEY, serial, **options)
    except OCSPDError as err:
        return str(err)
    return ""


def test_each_of_several_single_responses_is_found_by_its_own_certid() -> None:
    signer = CHAIN.signer()
    data = several(signer, *(signer.sign(serial=serial) for serial in (5, 6, 7)))
    assert [check(data, serial) for serial in (5, 6, 7)] == ["", "", ""]
    assert "a certificate other than" in check(data, 8)
    foreign = OTHER.signer().sign(serial=9)
    assert "a certificate other than" in check(several(signer, signer.sign(serial=5), foreign), 9)
    other_hash = signer.sign(serial=9, certid_hash="sha256")
    assert "a certificate other than" in check(several(signer, signer.sign(serial=5), other_hash), 9)


def test_each_of_several_single_responses_has_its_own_window_and_status() -> None:
    signer, brief = CHAIN.signer(), CHAIN.signer(validity=timedelta(hours=2))
    data = several(signer, signer.sign(serial=5), brief.sign(serial=6))
    late_s = NOW_S + 3 * 3600
    assert check(data, 5, late_s) == ""
    assert check(data, 6, late_s) == "it has expired"
    revoked = several(signer, signer.sign(serial=5), signer.sign(serial=6, status=CertStatus.REVOKED))
    times = parse_response(revoked).this_update, parse_response(revoked).next_update or 0
    assert check(revoked, 6, stored=(1, *times)) == ""
    assert "another status or other times" in check(revoked, 6, stored=(0, *times))
    assert "another status or other times" in check(revoked, 6, stored=(1, times[0], times[1] + 1))


def test_the_responder_is_the_one_that_responder_id_names() -> None:
    signer = CHAIN.signer()
    ca, own = (each.public_bytes(Encoding.DER) for each in (CHAIN.ca, CHAIN.responder))
    one = signer.sign(serial=5)
    assert check(several(signer, one, certificates=ca + own)) == ""
    assert "ResponderID names neither" in check(several(signer, one, certificates=ca))
    foreign = OTHER.responder.public_bytes(Encoding.DER)
    assert "ResponderID names neither" in check(several(signer, one, certificates=foreign))
    assert check(several(signer, one, certificates=foreign + own)) == ""


def test_a_responder_certificate_that_has_expired_is_named() -> None:
    signer = CHAIN.signer()
    brief = make_certificate(
        common_name("brief"), CHAIN.responder_key, CHAIN.ca.subject, CHAIN.ca_key, serial=3, ocsp=True, days=1
    )
    # an answer of a responder that has been given a longer certificate for the same key since
    data = several(signer, signer.sign(serial=5), certificates=brief.public_bytes(Encoding.DER))
    assert check(data) == ""
    assert check(data, now_s=NOW_S + 2 * 86400) == "its responder certificate is not valid now"


def test_a_signature_by_sha1_is_refused_as_the_strictest_clients_do() -> None:
    signer = CHAIN.signer()
    one = signer.sign(serial=5)
    assert check(several(signer, one, algorithm="1.2.840.10045.4.3.3", digest=hashes.SHA384())) == ""
    weak = several(signer, one, algorithm="1.2.840.10045.4.1", digest=hashes.SHA1())
    assert check(weak) == "it is signed with SHA-1, which is not secure: sign with SHA-256"
    assert "does not verify" in check(several(signer, one, digest=hashes.SHA384()))
    assert "does not fit its key" in check(several(signer, one, algorithm="1.2.840.113549.1.1.11"))
    assert "not supported" in check(several(signer, one, algorithm="1.2.3.4"))


def test_a_responder_certificate_whose_extensions_cannot_be_read_is_refused() -> None:
    usages = [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])] * 2
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name("twice"))
        .issuer_name(CHAIN.ca.subject)
        .public_key(CHAIN.responder_key.public_key())
        .serial_number(3)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    builder._extensions = [x509.Extension(usage.oid, False, usage) for usage in usages]  # noqa: FBT003
    twice = builder.sign(CHAIN.ca_key, hashes.SHA256())
    signer = CHAIN.signer()
    data = several(signer, signer.sign(serial=5), certificates=twice.public_bytes(Encoding.DER))
    assert "not authorized by the issuer" in check(data)


# One certificate, asked for


LATER = NOW + timedelta(minutes=1)


def asked(chain: Chain, der: bytes) -> CheckedStatus:
    return check_response(der, certificate=chain.leaf, issuer=chain.ca, now=LATER)


def test_the_request_is_the_one_openssl_makes(tmp_path: Path) -> None:
    chain = make_chain()
    chain.write(tmp_path)
    words = [need("openssl"), "ocsp", "-issuer", "ca.pem", "-cert", "leaf.pem", "-no_nonce", "-reqout", "req"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert make_request(chain.leaf, chain.ca) == (tmp_path / "req").read_bytes()


@pytest.mark.parametrize("kind", ["ecdsa-256", "ecdsa-384", "rsa-2048", "ed25519"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_good_answer_is_accepted_from_the_issuer_and_from_its_responder(*, kind: str, direct: bool) -> None:
    chain = make_chain(kind)
    found = asked(chain, chain.signer(direct=direct).sign(serial=chain.leaf.serial_number))
    assert (found.status, found.reason, found.revoked_at) == (CertStatus.GOOD, "", None)
    assert found.next_update is not None
    assert found.this_update <= NOW_S < found.next_update


def test_a_revocation_comes_with_its_reason_and_time() -> None:
    chain = make_chain()
    moment = (NOW - timedelta(hours=3)).replace(microsecond=0)
    der = chain.signer().sign(
        serial=chain.leaf.serial_number, status=CertStatus.REVOKED, reason=1, revoked_at=moment
    )
    found = asked(chain, der)
    assert (found.status, found.reason) == (CertStatus.REVOKED, "keyCompromise")
    assert found.revoked_at == moment.timestamp()


def test_an_error_status_is_told_by_its_name() -> None:
    unauthorized = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    der = unauthorized.public_bytes(serialization.Encoding.DER)
    with pytest.raises(ErrorStatusError, match=r"\Aunauthorized\Z"):
        asked(make_chain(), der)


def test_an_answer_of_another_ca_is_refused() -> None:
    chain, other = make_chain(), make_chain(name="Other CA", number=1)
    for direct in (False, True):
        with pytest.raises(OCSPDError):
            asked(chain, other.signer(direct=direct).sign(serial=chain.leaf.serial_number))


def test_an_answer_about_another_serial_is_refused() -> None:
    chain = make_chain()
    with pytest.raises(OCSPDError, match="about a certificate other than"):
        asked(chain, chain.signer().sign(serial=5))


def test_a_changed_byte_is_noticed() -> None:
    chain = make_chain()
    der = bytearray(chain.signer().sign(serial=chain.leaf.serial_number))
    place = bytes(der).index(b"Z\xa0", 60)  # the last character of a time
    der[place - 1] ^= 1
    with pytest.raises(OCSPDError, match="a signature that does not verify"):
        asked(chain, bytes(der))


@pytest.mark.parametrize(("hours", "why"), [(-200, "thisUpdate is in the future"), (200, "has expired")])
def test_an_answer_outside_its_window_is_refused(hours: int, why: str) -> None:
    chain = make_chain()
    der = chain.signer().sign(serial=chain.leaf.serial_number)
    with pytest.raises(OCSPDError, match=why):
        check_response(der, certificate=chain.leaf, issuer=chain.ca, now=NOW + timedelta(hours=hours))


def test_a_responder_certificate_without_the_usage_is_refused() -> None:
    chain = make_chain()
    builder = ocsp.OCSPResponseBuilder().add_response(
        chain.leaf,
        chain.ca,
        hashes.SHA1(),
        ocsp.OCSPCertStatus.GOOD,
        NOW - timedelta(hours=1),
        NOW + timedelta(hours=1),
        None,
        None,
    )
    impostor = chain.issue(77)
    answer = (
        builder.responder_id(ocsp.OCSPResponderEncoding.HASH, impostor)
        .certificates([impostor])
        .sign(make_key("ecdsa-256", 9), hashes.SHA256())
    )
    with pytest.raises(OCSPDError, match="does not have the extended key usage OCSP signing"):
        asked(chain, answer.public_bytes(serialization.Encoding.DER))


@pytest.mark.parametrize("der", [b"", b"0\x03\n\x01", b"<html>", bytes(100)])
def test_what_is_no_answer_is_called_so(der: bytes) -> None:
    with pytest.raises(OCSPDError, match="OCSP response: "):
        asked(make_chain(), der)


def openssl_accepts(folder: Path, chain: Chain, response: bytes) -> bool:
    chain.write(folder)
    (folder / "response.der").write_bytes(response)
    words = ["ocsp", "-respin", "response.der", "-issuer", "ca.pem", "-cert", "leaf.pem", "-CAfile", "ca.pem"]
    done = subprocess.run(
        [need("openssl"), *words, "-no_nonce"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "Response verify OK" in done.stderr and "leaf.pem: good" in done.stdout


def signed_by(chain: Chain, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Make a response in which a certificate of one's choice is the signer's."""
    builder = ocsp.OCSPResponseBuilder().add_response(
        chain.leaf,
        chain.ca,
        hashes.SHA1(),
        ocsp.OCSPCertStatus.GOOD,
        NOW - timedelta(hours=1),
        NOW + timedelta(hours=1),
        None,
        None,
    )
    response = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate).certificates([certificate])
    return response.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("case", ["authorized", "direct", "no usage", "expired", "of another CA", "forged"])
def test_signers_are_accepted_as_openssl_accepts_them(tmp_path: Path, case: str) -> None:
    chain, other = make_chain(), make_chain(name="Other CA", number=1)
    key = make_key("ecdsa-256", 9)
    match case:
        case "authorized":
            response = signed_by(chain, chain.responder, chain.responder_key)
        case "direct":
            response = chain.signer(direct=True).sign(serial=chain.leaf.serial_number)
        case "no usage":
            response = signed_by(chain, chain.issue(77), key)
        case "expired":
            response = signed_by(chain, chain.issue(77, ocsp=True, days=-1), key)
        case "of another CA":
            response = signed_by(chain, other.responder, other.responder_key)
        case _:  # issued in the name of the CA, by the key of another
            forged = make_certificate(
                common_name("forged"), key, chain.ca.subject, other.ca_key, serial=78, ocsp=True
            )
            response = signed_by(chain, forged, key)
    try:
        accepted = asked(chain, response).status == CertStatus.GOOD
    except OCSPDError:
        accepted = False
    assert accepted == (case in {"authorized", "direct"})
    assert openssl_accepts(tmp_path, chain, response) == accepted
