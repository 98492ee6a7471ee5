from __future__ import annotations

import base64
import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from hypothesis import given
from hypothesis import strategies as st

from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from ocspd.pki import ca, certs, der, keys, pem
from ocspd.pki.csr import CertificateRequest
from tests.pki.chain import make_key
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = b"correct horse"


@pytest.mark.parametrize(
    ("algo", "size", "kind", "label"),
    [
        ("rsa", 2048, rsa.RSAPrivateKey, "RSA PRIVATE KEY"),
        ("ecdsa", 256, ec.EllipticCurvePrivateKey, "EC PRIVATE KEY"),
        ("ecdsa", 384, ec.EllipticCurvePrivateKey, "EC PRIVATE KEY"),
        ("ecdsa", 521, ec.EllipticCurvePrivateKey, "EC PRIVATE KEY"),
        ("ed25519", 0, ed25519.Ed25519PrivateKey, "Ed25519 PRIVATE KEY"),
    ],
)
def test_a_new_key_reads_back_from_its_pem(algo: str, size: int, kind: Any, label: str) -> None:
    key = keys.generate_key(algo, size)
    text = keys.key_to_pem(key)
    again = keys.load_private_key(text.encode())
    assert isinstance(again, kind)
    assert keys.public_key_info(again) == keys.public_key_info(key)
    assert text.startswith(f"-----BEGIN {label}-----\n")
    assert text.endswith(f"-----END {label}-----\n")


@pytest.mark.parametrize(
    ("algo", "size", "message"),
    [
        ("rsa", 2047, "RSA key is too weak"),
        ("rsa", 0, "RSA key is too weak"),
        ("rsa", 8193, "RSA key size too large"),
        ("ecdsa", 224, "invalid curve"),
        ("dsa", 2048, "invalid algorithm"),
        ("", 0, "invalid algorithm"),
    ],
)
def test_a_key_that_cannot_be_made_is_2400(algo: str, size: int, message: str) -> None:
    with pytest.raises(CodedError) as caught:
        keys.generate_key(algo, size)
    assert (caught.value.code, caught.value.message) == (Code.KEY_GENERATION_FAILED, message)


@pytest.mark.parametrize("command", ["rsa:2048", "ec:prime256v1", "ec:secp521r1", "ED25519"])
@pytest.mark.parametrize("form", ["pkcs8", "traditional", "der"])
def test_openssl_keys_are_read_in_every_form(tmp_path: Path, command: str, form: str) -> None:
    algorithm, _, option = command.partition(":")
    if form == "traditional" and not option:
        form = "pkcs8"  # there is no other form of it
    words = ["genpkey", "-algorithm", algorithm.upper(), "-out", str(tmp_path / "k.pem")]
    if option:
        name = "rsa_keygen_bits" if algorithm == "rsa" else "ec_paramgen_curve"
        words += ["-pkeyopt", f"{name}:{option}"]
    run_openssl(*words)
    options = {"pkcs8": [], "traditional": ["-traditional"], "der": ["-outform", "DER"]}[form]
    run_openssl("pkey", "-in", str(tmp_path / "k.pem"), *options, "-out", str(tmp_path / "out"))
    run_openssl(
        "pkey", "-in", str(tmp_path / "k.pem"), "-pubout", "-outform", "DER", "-out", str(tmp_path / "p")
    )
    key = keys.load_private_key((tmp_path / "out").read_bytes())
    assert keys.public_key_info(key) == (tmp_path / "p").read_bytes()


def run_openssl(*words: str) -> None:
    subprocess.run([need("openssl"), *words], check=True, capture_output=True, timeout=120)


def test_parameters_before_an_ec_key_are_skipped(tmp_path: Path) -> None:
    run_openssl("ecparam", "-name", "secp384r1", "-genkey", "-out", str(tmp_path / "k.pem"))
    data = (tmp_path / "k.pem").read_bytes()
    assert b"EC PARAMETERS" in data
    assert isinstance(keys.load_private_key(data), ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kind", ["rsa-2048", "ecdsa-256"])
def test_an_encrypted_key_opens_with_its_password_only(kind: str, *, legacy: bool) -> None:
    form = serialization.PrivateFormat.TraditionalOpenSSL if legacy else serialization.PrivateFormat.PKCS8
    key = make_key(kind)
    protection = serialization.BestAvailableEncryption(PASSWORD)
    text = key.private_bytes(serialization.Encoding.PEM, form, protection)
    assert keys.public_key_info(keys.load_private_key(text, PASSWORD)) == keys.public_key_info(key)
    for password in (None, b""):
        with pytest.raises(CodedError) as caught:
            keys.load_private_key(text, password)
        assert caught.value.code == Code.KEY_ENCRYPTED
    with pytest.raises(keys.WrongPasswordError, match=r"^x509: decryption password incorrect"):
        keys.load_private_key(text, b"wrong")


@pytest.mark.parametrize("cipher", ["-des3", "-aes128", "-aes192", "-aes256"])
@pytest.mark.parametrize("form", [["-traditional"], []], ids=["traditional", "pkcs8"])
def test_a_key_that_openssl_encrypts_opens(tmp_path: Path, cipher: str, form: list[str]) -> None:
    (tmp_path / "k.pem").write_text(keys.key_to_pem(make_key("ecdsa-256")))
    words = ["pkey", "-in", str(tmp_path / "k.pem"), cipher, "-passout", f"pass:{PASSWORD.decode()}", *form]
    run_openssl(*words, "-out", str(tmp_path / "e.pem"))
    opened = keys.load_private_key((tmp_path / "e.pem").read_bytes(), PASSWORD)
    assert keys.public_key_info(opened) == keys.public_key_info(make_key("ecdsa-256"))


DES = """-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: DES-CBC,0123456789ABCDEF

{body}
-----END EC PRIVATE KEY-----
"""


def test_des_opens_too_and_other_ciphers_are_named() -> None:
    plain = pem.blocks(keys.key_to_pem(make_key("ecdsa-256")).encode())[0].content
    salt = bytes.fromhex("0123456789ABCDEF")
    key = hashlib.md5(PASSWORD + salt, usedforsecurity=False).digest()[:8]
    padding = 8 - len(plain) % 8
    encryptor = Cipher(TripleDES(key * 3), modes.CBC(salt)).encryptor()
    data = encryptor.update(plain + bytes((padding,)) * padding) + encryptor.finalize()
    text = DES.format(body=base64.b64encode(data).decode())
    opened = keys.load_private_key(text.encode(), PASSWORD)
    assert keys.public_key_info(opened) == keys.public_key_info(make_key("ecdsa-256"))
    for wrong in ("RC2-CBC,0123456789ABCDEF", "DES-CBC,01", "DES-CBC,xy", "DES-CBC", ""):
        with pytest.raises(CodedError) as caught:
            keys.load_private_key(text.replace("DES-CBC,0123456789ABCDEF", wrong).encode(), PASSWORD)
        assert caught.value.code == Code.KEY_PARSE_FAILED


def test_no_wrong_password_opens_a_key() -> None:
    """One in 256 of them leaves what looks like padding."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    protection = serialization.BestAvailableEncryption(PASSWORD)
    text = make_key("ecdsa-256").private_bytes(serialization.Encoding.PEM, form, protection)
    for number in range(1000):
        with pytest.raises(keys.WrongPasswordError):
            keys.load_private_key(text, str(number).encode())


def test_a_password_does_not_hinder_a_key_that_needs_none() -> None:
    text = keys.key_to_pem(make_key("ecdsa-256")).encode()
    assert keys.load_private_key(text, PASSWORD)


@pytest.mark.parametrize(
    "key",
    [
        dsa.generate_private_key(1024),
        x25519.X25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["dsa", "x25519", "secp256k1"],
)
def test_a_kind_of_key_that_cannot_sign_here_is_2003_as_in_cfssl(key: Any) -> None:
    form = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with pytest.raises(CodedError) as caught:
        keys.load_private_key(text)
    assert caught.value.code == Code.KEY_PARSE_FAILED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 2002),
        (b"no pem", 2002),
        (b"-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n", 2002),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 2003),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 2003),
        (b"\x30\x00", 2003),
        (b"\x30\x82", 2003),
    ],
)
def test_what_is_no_key_has_a_code(data: bytes, code: int) -> None:
    with pytest.raises(CodedError) as caught:
        keys.load_private_key(data)
    assert caught.value.code == code


@given(st.binary(max_size=80))
def test_garbage_is_refused_and_no_crash(data: bytes) -> None:
    for text in (data, b"0" + data, pem.encode("PRIVATE KEY", data).encode()):
        with pytest.raises(CodedError):
            keys.load_private_key(text, PASSWORD)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("rsa-2048", "sha256"),
        ("rsa-3072", "sha384"),
        ("rsa-4096", "sha512"),
        ("ecdsa-224", "sha1"),
        ("ecdsa-256", "sha256"),
        ("ecdsa-384", "sha384"),
        ("ecdsa-521", "sha512"),
        ("ed25519", None),
        ("ml-dsa-44", None),
    ],
)
def test_the_hash_follows_from_size_and_curve(kind: str, algorithm: str | None) -> None:
    found = keys.signature_hash(make_key(kind))
    assert (None if found is None else found.name) == algorithm


@pytest.mark.parametrize(
    "kind",
    ["rsa-2048", "rsa-3072", "ecdsa-256", "ecdsa-384", "ecdsa-521", "ed25519", "ml-dsa-44", "ml-dsa-65"],
)
def test_a_certificate_of_every_kind_of_key_verifies(kind: str) -> None:
    key = make_key(kind)
    made = ca.init_ca(CertificateRequest(common_name="root"), SystemClock(), key)
    certificate = certs.load_certificate(made.cert.encode())
    certificate.verify_directly_issued_by(certificate)
    keys.check_key_matches(key, certificate)
    with pytest.raises(CodedError) as caught:
        keys.check_key_matches(make_key("ecdsa-256", 7), certificate)
    assert caught.value.code == Code.KEY_MISMATCH


def test_an_ml_dsa_key_loads_and_is_written_under_the_usual_label() -> None:
    text = keys.key_to_pem(make_key("ml-dsa-65"))
    assert text.startswith("-----BEGIN PRIVATE KEY-----")
    assert isinstance(keys.load_private_key(text.encode()), mldsa.MLDSA65PrivateKey)


def rsa_der(p: int, q: int, /, **other: int) -> bytes:
    """An RSAPrivateKey (RFC 8017 A.1.2) with some of its numbers replaced by others."""
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = {"n": p * q, "e": 65537, "d": d, "p": p, "q": q, "dp": d % (p - 1), "dq": d % (q - 1)}
    numbers |= {"qinv": pow(q, -1, p)} | other
    return der.sequence(der.integer(0), *map(der.integer, numbers.values()))


P, Q = (1 << 2203) - 1, (1 << 1279) - 1
HUGE = rsa_der((1 << 9941) - 1, (1 << 9689) - 1)
"""Asking whether its factors are prime takes minutes, in which no other thread runs."""


@pytest.mark.parametrize(
    "wrap", [lambda data: data, lambda data: pem.encode("RSA PRIVATE KEY", data).encode()]
)
def test_the_rsa_key_of_a_client_is_checked_in_little_time(wrap: Any) -> None:
    key = keys.load_private_key(wrap(rsa_der(P, Q)), of_client=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert der.children(pem.blocks(keys.key_to_pem(key).encode())[0].content)[1] == der.integer(P * Q)
    with pytest.raises(CodedError) as caught:
        keys.load_private_key(wrap(HUGE), of_client=True)
    assert caught.value.code is Code.KEY_PARSE_FAILED
    assert "an RSA key of more than 8192 bits" in caught.value.message


@pytest.mark.parametrize(
    "other",
    [
        {"n": P * Q + 2},
        {"d": 3},
        {"e": 3},
        {"p": Q},
        {"q": 1},
        {"d": (1 << 9000) + 1},
        {"e": (1 << 9000) + 1},
    ],
    ids=lambda other: str(*other),
)
def test_numbers_that_do_not_belong_together_are_no_key_of_a_client(other: dict[str, int]) -> None:
    with pytest.raises(CodedError) as caught:
        keys.load_private_key(rsa_der(P, Q, **other), of_client=True)
    assert caught.value.code is Code.KEY_PARSE_FAILED


def test_a_diffie_hellman_key_of_a_client_is_refused_before_its_prime_is_checked() -> None:
    parameters = der.sequence(der.integer((1 << 9941) - 1), der.integer(2))
    algorithm = der.sequence(der.oid("1.2.840.113549.1.3.1"), parameters)
    data = der.sequence(der.integer(0), algorithm, der.tlv(4, der.integer(7)))
    with pytest.raises(CodedError) as caught:
        keys.load_private_key(data, of_client=True)
    assert caught.value.code is Code.KEY_PARSE_FAILED
    assert "it is not RSA, ECC or Ed25519" in caught.value.message


@pytest.mark.parametrize("kind", ["rsa-2048", "ecdsa-384", "ed25519", "ml-dsa-44"])
def test_a_key_of_a_client_in_pkcs8_is_of_every_kind_that_is_supported(kind: str) -> None:
    data = make_key(kind).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    found = keys.load_private_key(data, of_client=True)
    assert keys.public_key_info(found) == keys.public_key_info(make_key(kind))
