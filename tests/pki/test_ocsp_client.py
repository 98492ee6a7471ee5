from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from ocspd.errors import OCSPDError
from ocspd.model import CertStatus
from ocspd.pki.ocsp_client import Decision, check_answer, make_request
from tests.pki.chain import NOW, Chain, make_chain, make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

LATER = NOW + timedelta(minutes=1)


def check(chain: Chain, der: bytes) -> Decision:
    return check_answer(der, certificate=chain.leaf, issuer=chain.ca, now=LATER)


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
    verdict = check(chain, chain.signer(direct=direct).sign(serial=chain.leaf.serial_number))
    assert (verdict.status, verdict.reason, verdict.revoked_at) == ("good", "", None)
    assert verdict.this_update is not None
    assert verdict.next_update is not None
    assert verdict.this_update <= NOW < verdict.next_update


def test_a_revocation_comes_with_its_reason_and_time() -> None:
    chain = make_chain()
    moment = (NOW - timedelta(hours=3)).replace(microsecond=0)
    der = chain.signer().sign(
        serial=chain.leaf.serial_number, status=CertStatus.REVOKED, reason=1, revoked_at=moment
    )
    verdict = check(chain, der)
    assert (verdict.status, verdict.reason, verdict.revoked_at) == ("revoked", "keyCompromise", moment)


def test_an_error_status_is_told_by_its_name() -> None:
    unauthorized = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    der = unauthorized.public_bytes(serialization.Encoding.DER)
    assert check(make_chain(), der) == Decision(status="unauthorized")


def test_an_answer_of_another_ca_is_refused() -> None:
    chain, other = make_chain(), make_chain(name="Other CA", number=1)
    for direct in (False, True):
        with pytest.raises(OCSPDError):
            check(chain, other.signer(direct=direct).sign(serial=chain.leaf.serial_number))


def test_an_answer_about_another_serial_is_refused() -> None:
    chain = make_chain()
    with pytest.raises(OCSPDError, match="about serial 5"):
        check(chain, chain.signer().sign(serial=5))


def test_a_changed_byte_is_noticed() -> None:
    chain = make_chain()
    der = bytearray(chain.signer().sign(serial=chain.leaf.serial_number))
    place = bytes(der).index(b"Z\xa0", 60)  # the last character of a time
    der[place - 1] ^= 1
    with pytest.raises(OCSPDError, match="signature of the answer"):
        check(chain, bytes(der))


@pytest.mark.parametrize("hours", [-200, 200])
def test_an_answer_outside_its_window_is_refused(hours: int) -> None:
    chain = make_chain()
    der = chain.signer().sign(serial=chain.leaf.serial_number)
    with pytest.raises(OCSPDError, match="not now"):
        check_answer(der, certificate=chain.leaf, issuer=chain.ca, now=NOW + timedelta(hours=hours))


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
    with pytest.raises(OCSPDError, match="not one that the issuer appointed"):
        check(chain, answer.public_bytes(serialization.Encoding.DER))


@pytest.mark.parametrize("der", [b"", b"0\x03\n\x01", b"<html>", bytes(100)])
def test_what_is_no_answer_is_called_so(der: bytes) -> None:
    with pytest.raises(OCSPDError, match="not an OCSP answer"):
        check(make_chain(), der)
