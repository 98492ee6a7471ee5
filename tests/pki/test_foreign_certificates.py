"""Existing CAs whose certificates are not strict DER: they sign, issue and answer like any other."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ocspd.cli.main import main
from ocspd.errors import CodedError
from ocspd.pki import certs
from ocspd.pki.certid import parts_of
from ocspd.pki.der import oid, tlv
from tests.pki import encodings as e
from tests.pki.chain import key_pem, make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

ONE, TRUE, FALSE = b"\x01\x01\x01", b"\x01\x01\xff", b"\x01\x01\x00"
LONG_OID = tlv(6, b"\x2a" + b"\x81\x01" * 35)
POINT = e.key_info(make_key("ecdsa-256"))[-64:]
COMPRESSED = e.sequence(
    e.sequence(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")),
    tlv(3, b"\0", bytes((2 + (POINT[-1] & 1),)), POINT[:32]),
)
CN = e.attribute(e.COMMON_NAME, b"Old CA")
PLAIN = e.name(CN)
CA = e.extension(e.BASIC_CONSTRAINTS, e.sequence(TRUE), TRUE)
USAGE = e.extension(e.KEY_USAGE, tlv(3, b"\x01\x06"), TRUE)
IDENTIFIER = e.extension(e.SUBJECT_KEY_ID, tlv(4, b"old key"))
USUAL = (CA, USAGE, IDENTIFIER)


def validity(before: bytes, after: bytes, tag: int = 0x17) -> bytes:
    return e.sequence(tlv(tag, before), tlv(tag, after))


def named(value: bytes, tag: int, kind: str = e.COMMON_NAME) -> bytes:
    return e.certificate(subject=e.name(e.attribute(kind, value, tag), CN), extensions=USUAL)


FOREIGN = {
    "set not sorted": e.certificate(
        subject=e.sequence(e.set_of(CN, e.attribute(e.UNIT, b"ou"))), extensions=USUAL
    ),
    "empty rdn": e.certificate(subject=e.sequence(e.set_of(), e.set_of(CN)), extensions=USUAL),
    "star": named(b"*.example", e.PRINTABLE),
    "ampersand": named(b"AT&T", e.PRINTABLE, e.ORGANIZATION),
    "underscore": named(b"a_b", e.PRINTABLE),
    "at": named(b"a@b", e.PRINTABLE),
    "t61": named(b"M\xfcller", e.T61),
    "universal": named("Ab".encode("utf-32-be"), e.UNIVERSAL),
    "bmp": named("Müller".encode("utf-16-be"), e.BMP),
    "visible": named(b"Ab", e.VISIBLE),
    "ia5 beyond ascii": named(b"M\xfcller", e.IA5),
    "utf-8 that is latin-1": named(b"M\xfcller", e.UTF8),
    "integer in a name": named(b"\x05", 2),
    "empty value": named(b"", e.UTF8),
    "long country": named(b"Germany", e.PRINTABLE, e.COUNTRY),
    "e-mail as utf8": named(b"a@b.example", e.UTF8, e.EMAIL),
    "ecdsa null": e.certificate(
        subject=PLAIN, extensions=USUAL, signature_algorithm=e.sequence(oid(e.ECDSA_SHA256), e.NULL)
    ),
    "rsa without null": e.certificate(
        make_key("rsa-2048"),
        subject=PLAIN,
        extensions=USUAL,
        signature_algorithm=e.sequence(oid(e.RSA_SHA256)),
    ),
    "critical false": e.certificate(
        subject=PLAIN, extensions=(CA, USAGE, e.extension(e.SUBJECT_KEY_ID, tlv(4, b"old key"), FALSE))
    ),
    "critical 0x01": e.certificate(
        subject=PLAIN,
        extensions=(e.extension(e.BASIC_CONSTRAINTS, e.sequence(TRUE), ONE), USAGE, IDENTIFIER),
    ),
    "ca 0x01": e.certificate(
        subject=PLAIN, extensions=(e.extension(e.BASIC_CONSTRAINTS, e.sequence(ONE), TRUE), USAGE, IDENTIFIER)
    ),
    "no seconds": e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"2001010000Z", b"4901010000Z")
    ),
    "offset": e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"200101000000+0100", b"490101000000-0100")
    ),
    "generalized before 2050": e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"20200101000000Z", b"20490101000000Z", 0x18)
    ),
    "fraction of a second": e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"20200101000000.5Z", b"20490101000000.25Z", 0x18)
    ),
    "serial 0": e.certificate(subject=PLAIN, extensions=USUAL, serial=b"\0"),
    "serial negative": e.certificate(subject=PLAIN, extensions=USUAL, serial=b"\xfe"),
    "serial with a zero too many": e.certificate(subject=PLAIN, extensions=USUAL, serial=b"\0\x05"),
    "serial of 30 bytes": e.certificate(subject=PLAIN, extensions=USUAL, serial=b"\x05" * 30),
    "version 1 with extensions": e.certificate(subject=PLAIN, extensions=USUAL, version=b""),
    "version 4": e.certificate(subject=PLAIN, extensions=USUAL, version=b"\xa0\x03\x02\x01\x03"),
    "alternative name unreadable": e.certificate(
        subject=PLAIN, extensions=(*USUAL, e.extension(e.SAN, b"\x30\x02\x81"))
    ),
    "uri with spaces": e.certificate(subject=PLAIN, extensions=(*USUAL, e.names((0x86, b"http://a b/")))),
    "idn in utf-8": e.certificate(subject=PLAIN, extensions=(*USUAL, e.names((0x82, "ü.de".encode())))),
    "long object identifiers": e.certificate(
        subject=e.sequence(e.set_of(e.sequence(LONG_OID, tlv(12, b"x"))), e.set_of(CN)),
        extensions=(*USUAL, e.sequence(LONG_OID, tlv(4, b"x"))),
    ),
    "a number of 280 bits in an object identifier": e.certificate(
        subject=e.sequence(
            e.set_of(e.sequence(tlv(6, b"\x2a" + b"\xff" * 40 + b"\x01"), tlv(12, b"x"))), e.set_of(CN)
        ),
        extensions=USUAL,
    ),
    "path length of 64 bits": e.certificate(
        subject=PLAIN,
        extensions=(
            e.extension(e.BASIC_CONSTRAINTS, e.sequence(TRUE, tlv(2, b"\x7f" * 8)), TRUE),
            USAGE,
            IDENTIFIER,
        ),
    ),
    "x400 address": e.certificate(subject=PLAIN, extensions=(*USUAL, e.names((0xA3, e.sequence())))),
    "edi party": e.certificate(subject=PLAIN, extensions=(*USUAL, e.names((0xA5, tlv(0xA1, tlv(12, b"p")))))),
    "unknown tls feature": e.certificate(
        subject=PLAIN, extensions=(*USUAL, e.extension("1.3.6.1.5.5.7.1.24", e.sequence(tlv(2, b"\1"))))
    ),
    "begins in the year 0": e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"00000101000000Z", b"99991231235959Z", 0x18)
    ),
    "offset beyond the year 9999": e.certificate(
        subject=PLAIN,
        extensions=USUAL,
        validity=validity(b"00010101000000+0100", b"99991231235959-0100", 0x18),
    ),
    "compressed key": e.certificate(subject=PLAIN, extensions=USUAL, info=COMPRESSED),
    "unknown critical": e.certificate(subject=PLAIN, extensions=(*USUAL, e.extension("1.2.3", b"x", TRUE))),
}
OPENSSL_REFUSES = {
    "unknown critical",
    "alternative name unreadable",
    "visible",
    "utf-8 that is latin-1",
    "integer in a name",
    "serial with a zero too many",
    "no seconds",
    "offset",
    "fraction of a second",
    "begins in the year 0",
    "offset beyond the year 9999",
    "path length of 64 bits",
}
"""What OpenSSL 3.0 cannot read itself, or turns down for its content, whoever signed below it."""

KEYS = {"rsa without null": "rsa-2048"}


@dataclass(frozen=True)
class Authority:
    """A directory with ca.pem, ca-key.pem, a policy and a request; the CA's octets."""

    folder: Path
    data: bytes

    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        """Run a verb in this process and return what it printed; nothing of Python may be on stderr."""
        code = main([word.replace("@", f"{self.folder}/") for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert "Warning" not in err
        assert ".py" not in err
        return out


@pytest.fixture(params=list(FOREIGN))
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Authority:
    data = FOREIGN[request.param]
    (tmp_path / "ca.pem").write_text(e.pem("CERTIFICATE", data))
    (tmp_path / "ca.der").write_bytes(data)
    (tmp_path / "ca-key.pem").write_bytes(key_pem(make_key(KEYS.get(request.param, "ecdsa-256"))))
    (tmp_path / "leaf.csr").write_text(e.pem("CERTIFICATE REQUEST", e.request()))
    policy = {"signing": {"default": {"expiry": "24h", "usages": ["signing", "server auth"]}}}
    (tmp_path / "config.json").write_text(json.dumps(policy))
    return Authority(tmp_path, data)


def test_a_foreign_ca_issues_and_its_chain_verifies(
    authority: Authority, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    ca = ("-ca", "@ca.pem", "-ca-key", "@ca-key.pem", "-config", "@config.json")
    leaf = json.loads(authority.run(capsys, "sign", *ca, "@leaf.csr"))["cert"]
    (authority.folder / "leaf.pem").write_text(leaf)
    found = certs.load_certificate(leaf.encode())
    assert parts_of(found).issuer == parts_of(certs.load_certificate(authority.data)).subject
    assert json.loads(authority.run(capsys, "info", *ca))["certificate"]
    if request.node.callspec.params["authority"] not in OPENSSL_REFUSES:
        command = [need("openssl"), "verify", "-CAfile", "ca.pem", "leaf.pem"]
        result = subprocess.run(
            command, cwd=authority.folder, capture_output=True, text=True, check=False, timeout=120
        )
        assert (result.returncode, result.stderr) == (0, ""), result


def test_a_foreign_ca_signs_ocsp_responses_that_openssl_accepts(
    authority: Authority, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    ca = ("-ca", "@ca.pem", "-ca-key", "@ca-key.pem", "-config", "@config.json")
    (authority.folder / "leaf.pem").write_text(
        json.loads(authority.run(capsys, "sign", *ca, "@leaf.csr"))["cert"]
    )
    answer = authority.run(
        capsys,
        "ocspsign",
        "-ca",
        "@ca.der",
        "-responder",
        "@ca.pem",
        "-responder-key",
        "@ca-key.pem",
        "-cert",
        "@leaf.pem",
        "-status",
        "good",
    )
    response = json.loads(answer)["ocspResponse"]
    (authority.folder / "response.der").write_bytes(base64.b64decode(response))
    if request.node.callspec.params["authority"] in OPENSSL_REFUSES:
        return
    command = [
        need("openssl"),
        "ocsp",
        "-issuer",
        "ca.pem",
        "-cert",
        "leaf.pem",
        "-respin",
        "response.der",
        "-CAfile",
        "ca.pem",
    ]
    result = subprocess.run(
        command, cwd=authority.folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert "leaf.pem: good" in result.stdout, result.stderr
    assert "Response verify OK" in result.stderr


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x30\x80" + FOREIGN["t61"][4:] + b"\0\0", "indefinite length"),
        (FOREIGN["t61"][:-3], "exceeds its container"),
        (FOREIGN["t61"] + b"\0", "bytes after the certificate"),
        (e.certificate(subject=e.set_of()), "the issuer is not a SEQUENCE"),
        (e.certificate(validity=validity(b"200101000000Z", b"200231000000Z")), "a time that does not exist"),
        (e.certificate(validity=validity(b"yesterday", b"today")), "malformed time"),
        (e.sequence(), "the certificate's content is missing"),
        (b"\x30", "truncated"),
        (e.certificate(serial=b"\x05" * 2000), "its serial number has 2000 bytes"),
        (e.certificate(serial=b"\x85" * 2000, version=b""), "its serial number has 2000 bytes"),
    ],
)
def test_what_stays_refused_is_refused_with_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(CodedError, match=cause) as caught:
        certs.load_certificate(data)
    assert "ParseError" not in str(caught.value)


def test_times_with_an_offset_are_taken_to_utc() -> None:
    found = certs.load_certificate(FOREIGN["offset"])
    assert found.not_valid_before_utc == datetime(2019, 12, 31, 23, tzinfo=UTC)
    assert found.not_valid_after_utc == datetime(2049, 1, 1, 1, tzinfo=UTC)


def test_an_extension_twice_is_told_when_extensions_are_asked_for() -> None:
    found = certs.load_certificate(e.certificate(subject=PLAIN, extensions=(*USUAL, CA)))
    with pytest.raises(x509.DuplicateExtension):
        _ = found.extensions


def pkcs7(*certificates: bytes) -> bytes:
    """Encode a SignedData that only carries certificates, as `openssl crl2pkcs7` does."""
    data = e.sequence(oid("1.2.840.113549.1.7.1"))
    signed = e.sequence(tlv(2, b"\1"), e.set_of(), data, tlv(0xA0, *certificates), e.set_of())
    return e.sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, signed))


KEY = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "data",
    [
        pkcs7(FOREIGN["t61"]),
        pkcs7(FOREIGN["t61"]) + b"\n",
        e.pem("PKCS7", pkcs7(FOREIGN["t61"])).encode(),
        FOREIGN["t61"] + b"\r\n",
        (KEY + e.pem("CERTIFICATE", FOREIGN["t61"])).encode(),
        (e.pem("CERTIFICATE", FOREIGN["t61"]) + KEY).encode(),
        e.pem("TRUSTED CERTIFICATE", FOREIGN["t61"] + e.sequence()).encode(),
        e.pem("certificate", FOREIGN["t61"]).encode(),
    ],
)
def test_a_foreign_certificate_is_found_in_whatever_holds_it(data: bytes) -> None:
    found = certs.load_certificate(data)
    assert found.public_bytes(serialization.Encoding.DER) == FOREIGN["t61"]
    assert found.subject.rfc4514_string() == "CN=Old CA,CN=Müller"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (KEY.encode(), "its PEM label is PRIVATE KEY"),
        (e.pem("CERTIFICATE REQUEST", e.request()).encode(), "its PEM label is CERTIFICATE REQUEST"),
        (b"\xef\xbb\xbf" + FOREIGN["t61"], "byte order mark"),
        (FOREIGN["t61"] + b"\n\0", "bytes after the certificate"),
        (pkcs7(b"\x30\x80"), "PKCS #7 object cannot be read"),
        (pkcs7(e.sequence()), "the certificate's content is missing"),
    ],
)
def test_what_holds_no_certificate_is_called_what_it_is(data: bytes, cause: str) -> None:
    with pytest.raises(CodedError, match=cause):
        certs.load_certificate(data)


def test_a_ca_that_never_ends_is_renewed_for_as_long_as_go_can_say(tmp_path: Path) -> None:
    data = e.certificate(
        subject=PLAIN, extensions=USUAL, validity=validity(b"20000101000000Z", b"99991231235959Z", 0x18)
    )
    (tmp_path / "ca.pem").write_text(e.pem("CERTIFICATE", data))
    (tmp_path / "ca-key.pem").write_bytes(key_pem(make_key("ecdsa-256")))
    words = ["-renewca", "-ca", str(tmp_path / "ca.pem"), "-ca-key", str(tmp_path / "ca-key.pem")]
    texts = []
    for program in ([sys.executable, "-m", "ocspd"], [need("cfssl")]):
        result = subprocess.run(
            [*program, "gencert", *words], capture_output=True, text=True, check=True, timeout=120
        )
        texts.append(json.loads(result.stdout)["cert"])
    ours, theirs = (certs.load_certificate(text.encode()) for text in texts)
    assert (ours.not_valid_after_utc - ours.not_valid_before_utc).days == ((1 << 63) - 1) // (86400 * 10**9)
    assert abs(ours.not_valid_after_utc - theirs.not_valid_after_utc) <= timedelta(minutes=5)
