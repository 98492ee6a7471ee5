"""What `index verify` says of single answers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from ocspd._der import parse_response
from ocspd.errors import OCSPDError
from ocspd.model import CertStatus
from ocspd.pki import der
from ocspd.pki.answer_check import AnswerChecker
from ocspd.pki.certid import issuer_hashes
from tests.pki.chain import NOW, common_name, make_certificate, make_chain

if TYPE_CHECKING:
    from ocspd.pki.ocsp import OCSPSigner

CHAIN = make_chain()
OTHER = make_chain(name="Other CA", number=1)
KEY = ("sha1", *issuer_hashes(CHAIN.ca, "sha1"))
NOW_S = int(NOW.timestamp())


def several(signer: OCSPSigner, *answers: bytes, certificates: bytes | None = None) -> bytes:
    """Sign the SingleResponses of several answers as one; `certificates` is the DER to embed."""
    parts = [der.children(parse_response(answer).tbs) for answer in answers]
    singles = [single for part in parts for single in der.children(part[2])]
    tbs = der.sequence(parts[0][0], parts[0][1], der.sequence(*singles))
    if certificates is None:
        certificates = signer.responder.public_bytes(Encoding.DER)
    basic = der.sequence(
        tbs,
        signer._signature_algorithm,
        der.tlv(der.BIT_STRING, b"\0", signer._sign_bytes(tbs)),
        der.tlv(der.context(0, constructed=True), der.sequence(certificates)),
    )
    inner = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1"), der.tlv(der.OCTET_STRING, basic))
    return der.sequence(der.tlv(der.ENUMERATED, b"\0"), der.tlv(der.context(0, constructed=True), inner))


def check(data: bytes, serial: int = 5, now_s: int = NOW_S, **options: tuple[int, int, int]) -> str:
    try:
        AnswerChecker([CHAIN.ca], now_s).check(data, KEY, serial, **options)
    except OCSPDError as err:
        return str(err)
    return ""


def test_each_of_several_single_responses_is_found_by_its_own_certid() -> None:
    signer = CHAIN.signer()
    data = several(signer, *(signer.sign(serial=serial) for serial in (5, 6, 7)))
    assert [check(data, serial) for serial in (5, 6, 7)] == ["", "", ""]
    assert "another certificate" in check(data, 8)
    foreign = OTHER.signer().sign(serial=9)
    assert "another certificate" in check(several(signer, signer.sign(serial=5), foreign), 9)
    other_hash = signer.sign(serial=9, certid_hash="sha256")
    assert "another certificate" in check(several(signer, signer.sign(serial=5), other_hash), 9)


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
