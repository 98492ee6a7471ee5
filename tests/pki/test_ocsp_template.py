from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from ocspd._der import parse_response
from ocspd._index import Segment
from ocspd.errors import CodedError, ConfigError
from ocspd.index._writer import SegmentWriter
from ocspd.model import REASONS, ZERO_TIME, CertStatus, known_reason
from ocspd.pki import der
from ocspd.pki.certid import HASHES, issuer_hashes
from ocspd.pki.ocsp_template import ResponseBatch, SerialError

from .chain import KEY_KINDS, NOW, Chain, make_certificate, make_chain, make_key

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.model import Row

ALGORITHMS: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
FLAGS = {
    0: None,
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    6: x509.ReasonFlags.certificate_hold,
    8: x509.ReasonFlags.remove_from_crl,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}
STATUSES = {
    CertStatus.GOOD: ocsp.OCSPCertStatus.GOOD,
    CertStatus.REVOKED: ocsp.OCSPCertStatus.REVOKED,
    CertStatus.UNKNOWN: ocsp.OCSPCertStatus.UNKNOWN,
}
serials = st.one_of(
    st.integers(0, 300),
    st.integers(0, (1 << 168) - 1),
    st.integers(0, 168).map(lambda bits: 1 << bits),
    st.integers(1, 168).map(lambda bits: (1 << bits) - 1),
    st.integers(1100, 1200).map(lambda bits: 1 << bits),
)
moments = st.integers(0, 250_000_000_000).map(
    lambda s: datetime(1951, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
)


@dataclass(frozen=True)
class Case:
    serial: int
    status: CertStatus
    reason: int
    revoked_at: datetime
    certid_hash: str

    @property
    def arguments(self) -> tuple[int, CertStatus, int, datetime, str]:
        return self.serial, self.status, self.reason, self.revoked_at, self.certid_hash


cases = st.builds(
    Case,
    serial=serials,
    status=st.sampled_from(CertStatus),
    reason=st.sampled_from(sorted(FLAGS)),
    revoked_at=moments,
    certid_hash=st.sampled_from(sorted(HASHES)),
)


def verify(chain: Chain, answer: ocsp.OCSPResponse, *, direct: bool = False) -> None:
    certificate = chain.ca if direct else chain.responder
    key: Any = certificate.public_key()
    signed = answer.tbs_response_bytes
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(answer.signature, signed, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePublicKey):
        digests: dict[int, hashes.HashAlgorithm] = {
            256: hashes.SHA256(),
            384: hashes.SHA384(),
            521: hashes.SHA512(),
        }
        key.verify(answer.signature, signed, ec.ECDSA(digests[key.key_size]))
    else:
        key.verify(answer.signature, signed)


def check_fields(answer: ocsp.OCSPResponse, batch: ResponseBatch, chain: Chain, case: Case) -> None:
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert len(list(answer.responses)) == 1
    assert answer.serial_number == case.serial
    assert answer.certificate_status is STATUSES[case.status]
    revoked = case.status is CertStatus.REVOKED
    assert answer.revocation_reason is (FLAGS[case.reason] if revoked else None)
    assert answer.revocation_time_utc == (min(case.revoked_at, batch.this_update) if revoked else None)
    assert answer.produced_at_utc == batch.produced_at
    assert answer.this_update_utc == batch.this_update
    assert answer.next_update_utc == batch.next_update
    assert (answer.issuer_name_hash, answer.issuer_key_hash) == issuer_hashes(chain.ca, case.certid_hash)
    assert answer.hash_algorithm.name == case.certid_hash
    assert len(answer.extensions) == 0
    assert len(answer.single_extensions) == 0


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(("ecdsa-256", "ed25519")), direct=st.booleans(), case=cases)
def test_C01_every_response_decodes_to_what_was_signed(kind: str, *, direct: bool, case: Case) -> None:
    chain = make_chain(kind)
    batch = chain.signer(direct=direct).batch()
    data = batch.sign(*case.arguments)
    answer = ocsp.load_der_ocsp_response(data)
    check_fields(answer, batch, chain, case)
    verify(chain, answer, direct=direct)
    assert answer.public_bytes(Encoding.DER) == data
    own = parse_response(data)
    assert (own.serial, own.status, own.hash_name, own.count) == (
        case.serial,
        case.status,
        case.certid_hash,
        1,
    )
    assert own.tbs == answer.tbs_response_bytes
    assert own.signature == answer.signature


@settings(max_examples=200, deadline=None)
@given(case=cases, by_key=st.booleans(), direct=st.booleans())
def test_C01_bytes_equal_those_cryptography_builds(case: Case, *, by_key: bool, direct: bool) -> None:
    chain = make_chain("ed25519")  # its signatures are deterministic
    signer = chain.signer(direct=direct, responder_id="key" if by_key else "name")
    certificate = chain.ca if direct else chain.responder
    template = signer.batch()
    name_hash, key_hash = issuer_hashes(chain.ca, case.certid_hash)
    revoked = case.status is CertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            issuer_name_hash=name_hash,
            issuer_key_hash=key_hash,
            serial_number=case.serial,
            algorithm=ALGORITHMS[case.certid_hash],
            cert_status=STATUSES[case.status],
            this_update=template.this_update,
            next_update=template.next_update,
            revocation_time=min(case.revoked_at, template.this_update) if revoked else None,
            revocation_reason=FLAGS[case.reason] if revoked else None,
        )
        .responder_id(
            ocsp.OCSPResponderEncoding.HASH if by_key else ocsp.OCSPResponderEncoding.NAME, certificate
        )
    )
    if not direct:
        builder = builder.certificates([certificate])
    theirs = builder.sign(chain.ca_key if direct else chain.responder_key, None)
    batch = ResponseBatch(
        sign=signer._sign_bytes,
        signature_algorithm=signer._signature_algorithm,
        responder_id=template._start[: -len(der.generalized_time(template.produced_at))],
        certid_prefixes=signer._certid_prefixes,
        certificates=template._tail,
        produced_at=theirs.produced_at_utc,  # the builder takes it from the system clock
        this_update=template.this_update,
        next_update=template.next_update,
    )
    assert batch.sign(*case.arguments) == theirs.public_bytes(Encoding.DER)


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("direct", [False, True], ids=["delegated", "direct"])
def test_C14_signature_covers_response_data_for_every_key_kind(kind: str, *, direct: bool) -> None:
    chain = make_chain(kind)
    batch = chain.signer(direct=direct).batch()
    for serial in (0, 127, 128, 1 << 159):
        answer = ocsp.load_der_ocsp_response(batch.sign(serial, CertStatus.REVOKED, 1, NOW))
        verify(chain, answer, direct=direct)


ALGORITHM_IDENTIFIERS = {
    "rsa-2048": "300d06092a864886f70d01010b0500",
    "rsa-4096": "300d06092a864886f70d01010b0500",
    "ecdsa-256": "300a06082a8648ce3d040302",
    "ecdsa-384": "300a06082a8648ce3d040303",
    "ecdsa-521": "300a06082a8648ce3d040304",
    "ed25519": "300506032b6570",
    "ml-dsa-44": "300b0609608648016503040311",
    "ml-dsa-65": "300b0609608648016503040312",
}


@pytest.mark.parametrize(("kind", "expected"), ALGORITHM_IDENTIFIERS.items())
def test_C61_C73_signature_algorithm_is_byte_for_byte_the_listed_one(kind: str, expected: str) -> None:
    own = parse_response(make_chain(kind).signer().sign(serial=5))
    assert own.signature_algorithm.hex() == expected


def test_C09_C47_times_are_zulu_with_seconds_and_no_fraction() -> None:
    batch = make_chain().signer().batch(datetime(2026, 11, 23, 22, 43, 59, 999_999, tzinfo=UTC))
    data = batch.sign(5, CertStatus.REVOKED, 1, datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC))
    for text in (b"20261123224300Z", b"20261123220000Z", b"20261127215959Z", b"20260102030405Z"):
        assert b"\x18\x0f" + text in data


def test_C12_version_is_not_encoded_and_C42_the_type_is_basic_without_extensions() -> None:
    own = parse_response(make_chain().signer().sign(serial=5))
    fields = der.children(own.tbs)
    assert [field[0] for field in fields] == [0xA2, 0x18, 0x30]


def test_C13_C44_responder_id_is_by_key_the_sha1_of_the_key_bits() -> None:
    chain = make_chain()
    own = parse_response(chain.signer().sign(serial=5))
    point = chain.responder_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert own.responder_id == b"\xa2\x16\x04\x14" + hashlib.sha1(point).digest()


def test_C13_responder_id_by_name_is_the_subject_exactly() -> None:
    chain = make_chain()
    own = parse_response(chain.signer(responder_id="name").sign(serial=5))
    subject = chain.responder.subject.public_bytes()
    assert own.responder_id == der.tlv(0xA1, subject)


def test_C15_C45_delegated_responses_carry_the_responder_certificate_and_nothing_else() -> None:
    chain = make_chain()
    answer = ocsp.load_der_ocsp_response(chain.signer().sign(serial=5))
    assert answer.certificates == [chain.responder]


def test_C15_no_certificate_is_embedded_when_the_CA_signs_itself() -> None:
    chain = make_chain()
    data = chain.signer(direct=True).sign(serial=5)
    assert parse_response(data).certificates == []
    assert len(data) < 300


@pytest.mark.parametrize("certid_hash", HASHES)
def test_C11_certid_is_the_one_clients_compute(certid_hash: str) -> None:
    chain = make_chain()
    request = ocsp.OCSPRequestBuilder().add_certificate(chain.leaf, chain.ca, ALGORITHMS[certid_hash]).build()
    answer = ocsp.load_der_ocsp_response(
        chain.signer().sign(serial=chain.leaf.serial_number, certid_hash=certid_hash)
    )
    for field in ("issuer_name_hash", "issuer_key_hash", "serial_number"):
        assert getattr(answer, field) == getattr(request, field)


def test_certid_hashes_the_name_as_it_stands_in_the_certificate() -> None:
    # a string type that writers no longer choose
    teletex = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "aaaa", x509.name._ASN1Type.T61String)
    subject = x509.Name([teletex])
    key = make_key("ed25519")
    issuer = make_certificate(subject, key, subject, key, serial=1, ca=True)
    encoded = bytes.fromhex("300f310d300b060355040a140461616161")
    assert encoded in issuer.tbs_certificate_bytes
    assert issuer_hashes(issuer, "sha1")[0] == hashlib.sha1(encoded).digest()
    assert issuer_hashes(issuer, "sha256")[0] == hashlib.sha256(encoded).digest()


def test_reason_zero_is_left_out() -> None:
    assert (
        parse_response(make_chain().signer().sign(serial=5, status=CertStatus.REVOKED, revoked_at=NOW)).reason
        is None
    )


@pytest.mark.parametrize("moment", [None, ZERO_TIME])
def test_a_revocation_without_a_time_is_still_a_revocation(moment: datetime | None) -> None:
    own = parse_response(make_chain().signer().sign(serial=5, status=CertStatus.REVOKED, revoked_at=moment))
    assert (own.status, own.revoked_at) == (1, 0)


def test_a_revocation_time_in_another_zone_is_written_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    own = parse_response(make_chain().signer().sign(serial=5, status=CertStatus.REVOKED, revoked_at=moment))
    assert own.revoked_at == int(moment.timestamp())


def test_known_reasons_are_those_of_the_model() -> None:
    assert {number for number in range(20) if known_reason(number)} == set(REASONS.values()) == set(FLAGS)


ROWS = st.lists(
    st.tuples(
        st.integers(-3, 1 << 160),
        st.sampled_from([0, 0, 1, 1, 2, 7]),
        st.integers(-1, 12),
        st.none() | st.integers(0, 4_000_000_000).map(float),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=100)
@given(
    rows=ROWS,
    keep=st.booleans(),
    yielding=st.booleans(),
    names=st.lists(st.sampled_from(list(HASHES)), unique=True, min_size=1),
)
def test_rows_are_signed_as_certificates_are_one_by_one(
    rows: list[Row],
    names: list[str],
    *,
    keep: bool,
    yielding: bool,
) -> None:
    batch = make_chain("ed25519").signer().batch()  # its signatures are the same every time
    expected: list[list[bytes] | str] = []
    for serial, status, reason, revoked_s in rows:
        if status not in {0, 1, 2}:
            expected.append("unknown status")
            continue
        known = reason if known_reason(reason) else 0
        moment = None if revoked_s is None else datetime.fromtimestamp(revoked_s, UTC)
        try:
            expected.append(
                [batch.sign(serial, status, known if status == 1 else 0, moment, name) for name in names]
            )
        except SerialError:
            expected.append("bad serial")
    with tempfile.TemporaryDirectory() as folder:
        with SegmentWriter(f"{folder}/new.seg", created_at=0) as writer:
            signed = batch.sign_rows(rows, names, writer=writer, due_s=0, keep=keep, yielding=yielding)
            writer.finish()
        stored = {answer.der for _, _, answer in Segment(writer.path).records()}
    if keep:
        assert signed == expected
    else:
        assert [answer or [] for answer in signed] == [
            answer if isinstance(answer, str) else [] for answer in expected
        ]
    made = [der for answer in expected if not isinstance(answer, str) for der in answer]
    last = {(parse_response(der).serial, parse_response(der).hash_name): der for der in made}
    assert stored == set(last.values())


def test_what_cannot_be_signed_is_refused_with_its_cause() -> None:
    batch = make_chain().signer().batch()
    with pytest.raises(SerialError, match="serial -5 is negative"):
        batch.sign(-5)
    with pytest.raises(CodedError, match=r'"code":8200.*Invalid revocation status'):
        batch.sign(5, 7)
    for reason in (7, 11, -1):
        with pytest.raises(CodedError, match=rf'"code":8200.*reason {reason}'):
            batch.sign(5, CertStatus.REVOKED, reason, NOW)
    with pytest.raises(ConfigError, match="unknown CertID hash 'md5': use sha1, sha256, sha384, sha512"):
        batch.sign(5, certid_hash="md5")


@pytest.mark.parametrize("kind", ["ecdsa-256", "rsa-2048"])
@pytest.mark.parametrize("responder_id", ["key", "name"])
@pytest.mark.parametrize("direct", [False, True], ids=["delegated", "direct"])
def test_C72_pkilint_finds_nothing(tmp_path: Path, kind: str, responder_id: str, *, direct: bool) -> None:
    batch = make_chain(kind).signer(responder_id=responder_id, direct=direct).batch()
    samples = [
        batch.sign(1 << 159, status, reason, NOW, certid_hash)
        for status, reason in ((CertStatus.GOOD, 0), (CertStatus.REVOKED, 0), (CertStatus.REVOKED, 1))
        for certid_hash in ("sha1", "sha256")
    ]
    for number, sample in enumerate(samples[:: 1 if kind == "ecdsa-256" and not direct else 5]):
        path = tmp_path / f"{number}.der"
        path.write_bytes(sample)
        result = subprocess.run(
            [sys.executable, "-m", "pkilint.bin.lint_ocsp_response", "lint", "-s", "NOTICE",
             "--document-format", "DER", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")
