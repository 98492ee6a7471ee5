"""Private keys: generated, loaded, written and compared as in CFSSL.

A key signs with the hash that goes with its size (`signature_hash`), RSA always with PKCS #1 v1.5. ML-DSA
keys (FIPS 204) can be loaded and can sign if the installed `cryptography` supports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ocspd.errors import Code, CodedError, DERError, OCSPDError
from ocspd.pki import der, pem
from ocspd.pki.public_keys import ED25519, MAX_RSA_BITS, MIN_RSA_BITS

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # before cryptography 47
    mldsa = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    PrivateKey = (
        rsa.RSAPrivateKey
        | ec.EllipticCurvePrivateKey
        | ed25519.Ed25519PrivateKey
        | mldsa.MLDSA44PrivateKey
        | mldsa.MLDSA65PrivateKey
        | mldsa.MLDSA87PrivateKey
    )
    PublicKey = (
        rsa.RSAPublicKey
        | ec.EllipticCurvePublicKey
        | ed25519.Ed25519PublicKey
        | mldsa.MLDSA44PublicKey
        | mldsa.MLDSA65PublicKey
        | mldsa.MLDSA87PublicKey
    )


_CURVES: dict[int, type[ec.EllipticCurve]] = {256: ec.SECP256R1, 384: ec.SECP384R1, 521: ec.SECP521R1}
_GO_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_ML_DSA_OIDS = {
    "44": "2.16.840.1.101.3.4.3.17",
    "65": "2.16.840.1.101.3.4.3.18",
    "87": "2.16.840.1.101.3.4.3.19",
}
_RSA = "1.2.840.113549.1.1.1"
_EC = "1.2.840.10045.2.1"
_RSA_OIDS = {
    "sha1": "1.2.840.113549.1.1.5",
    "sha256": "1.2.840.113549.1.1.11",
    "sha384": "1.2.840.113549.1.1.12",
    "sha512": "1.2.840.113549.1.1.13",
}
_ECDSA_OIDS = {
    "sha1": "1.2.840.10045.4.1",
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
    "sha512": "1.2.840.10045.4.3.4",
}


def generate_key(algo: str, size: int) -> PrivateKey:
    """Generate a key: `rsa` of 2048 to 8192 bits, `ecdsa` of 256, 384 or 521, `ed25519` (size ignored).

    CodedError 2400 otherwise. RSA can take seconds.
    """
    match algo:
        case "rsa":
            if size < MIN_RSA_BITS:
                raise CodedError(Code.KEY_GENERATION_FAILED, "RSA key is too weak")
            if size > MAX_RSA_BITS:
                raise CodedError(Code.KEY_GENERATION_FAILED, "RSA key size too large")
            return rsa.generate_private_key(65537, size)
        case "ecdsa":
            curve = _CURVES.get(size)
            if curve is None:
                raise CodedError(Code.KEY_GENERATION_FAILED, "invalid curve")
            return ec.generate_private_key(curve())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            raise CodedError(Code.KEY_GENERATION_FAILED, "invalid algorithm")


def generate_like(key: PrivateKey) -> PrivateKey:
    """Generate a key that signs with the same algorithm as another one; RSA of 4096 bits at most."""
    match key:
        case rsa.RSAPrivateKey():
            size = next((bits for bits in (4096, 3072, 2048) if key.key_size >= bits), 1024)
            return rsa.generate_private_key(65537, size)
        case ec.EllipticCurvePrivateKey():
            return ec.generate_private_key(key.curve)
        case ed25519.Ed25519PrivateKey():
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            oid = _ml_dsa(key)
            name = next(name for name, dotted in _ML_DSA_OIDS.items() if dotted == oid)
            made: PrivateKey = getattr(mldsa, f"MLDSA{name}PrivateKey").generate()
            return made


def load_private_key(
    pem_or_der: bytes, password: bytes | None = None, *, of_client: bool = False
) -> PrivateKey:
    """Load a key from PEM or DER: PKCS #8, PKCS #1 or SEC 1, whatever the PEM label is.

    Encrypted keys (RFC 1421 headers, or PKCS #8) need the password, which is ignored for others. With
    `of_client` nobody asks whether the factors of an RSA key are prime, which takes as long as its sender
    wants and stops every thread: for keys that are compared and returned, and never sign.
    CodedError: 2002 no PEM, 2003 not a key, or one of an unsupported kind or encryption, 2100 encrypted and
    no password. WrongPasswordError, which has no number in CFSSL either.
    """
    if pem_or_der[:1] == b"\x30":
        return supported(_load_der(pem_or_der, password, of_client=of_client))
    for block in pem.blocks(pem_or_der):
        if block.label == "EC PARAMETERS":
            continue
        if "ENCRYPTED" in block.headers.get("Proc-Type", ""):
            return supported(_load_legacy(block, password))
        if block.label.startswith(("CERTIFICATE", "X509 CRL", "NEW CERTIFICATE")):
            raise CodedError(
                Code.KEY_PARSE_FAILED, f"Failed to parse private key: the PEM block is a {block.label}"
            )
        return supported(_load_der(block.content, password, of_client=of_client))
    raise CodedError(
        Code.KEY_DECODE_FAILED,
        f"Failed to decode private key: it contains no PEM block{pem.hint(pem_or_der)}",
    )


def _load_der(data: bytes, password: bytes | None, *, of_client: bool) -> object:
    encrypted = _is_encrypted_pkcs8(data)
    if encrypted and not password:
        raise _encrypted()
    if of_client:
        _check_kind(data)
    try:
        key = serialization.load_der_private_key(
            data, password if encrypted else None, unsafe_skip_rsa_key_validation=of_client
        )
        if of_client and isinstance(key, rsa.RSAPrivateKey):
            _check_numbers(key)
    except UnsupportedAlgorithm as err:
        raise _unsupported_encryption() if encrypted else _unsupported("of an unknown kind") from err
    except (ValueError, TypeError) as err:
        if encrypted:
            raise WrongPasswordError from err
        raise CodedError(Code.KEY_PARSE_FAILED, "Failed to parse private key") from err
    return key


def _check_kind(data: bytes) -> None:
    """Raise CodedError 2003 for PKCS #8 of another kind: of a DH key, too, the prime would be checked."""
    try:
        _, algorithm, *_ = der.children(data)
        if algorithm[:1] != b"\x30":
            return  # PKCS #1 or SEC 1
        kind = der.children(algorithm)[0]
    except (DERError, IndexError, ValueError):
        raise CodedError(Code.KEY_PARSE_FAILED, "Failed to parse private key") from None
    if kind not in map(der.oid, (_RSA, _EC, ED25519, *_ML_DSA_OIDS.values())):
        raise _unsupported("of another kind")


def _check_numbers(key: rsa.RSAPrivateKey) -> None:
    """Check an RSA key as Go does: that its numbers belong together. CodedError 2003 if not.

    ValueError for one whose numbers cannot be read.
    """
    numbers = key.private_numbers()
    p, q, d, e = numbers.p, numbers.q, numbers.d, numbers.public_numbers.e
    if max(key.key_size, *(number.bit_length() for number in (p, q, d, e))) > MAX_RSA_BITS:
        raise CodedError(
            Code.KEY_PARSE_FAILED,
            f"Failed to parse private key: it is an RSA key of more than {MAX_RSA_BITS} bits",
        )
    if min(p, q) < 2 or p * q != numbers.public_numbers.n or any((d * e - 1) % (each - 1) for each in (p, q)):
        raise CodedError(
            Code.KEY_PARSE_FAILED, "Failed to parse private key: its numbers do not belong together"
        )


def _load_legacy(block: pem.Block, password: bytes | None) -> object:
    from ocspd.pki import legacy_pem  # noqa: PLC0415  (rarely needed)

    if not password:
        raise _encrypted()
    try:
        data = legacy_pem.decrypt(block, password)
        if data is None:
            raise WrongPasswordError
        return serialization.load_der_private_key(data, None)
    except legacy_pem.UnknownCipherError as err:
        raise _unsupported_encryption() from err
    except UnsupportedAlgorithm as err:
        raise _unsupported("of an unknown kind") from err
    except (ValueError, TypeError) as err:  # padding that looks right by chance
        raise WrongPasswordError from err


def _is_encrypted_pkcs8(data: bytes) -> bool:
    """Return whether it is an EncryptedPrivateKeyInfo: that begins with an AlgorithmIdentifier."""
    try:
        return der.children(data)[0][:1] == b"\x30"
    except (DERError, IndexError):
        return False


def _encrypted() -> CodedError:
    return CodedError(Code.KEY_ENCRYPTED, "Private key is encrypted.")


class WrongPasswordError(OCSPDError):
    """A private key that its password does not open."""

    def __init__(self) -> None:
        super().__init__("x509: decryption password incorrect, or the key is damaged")


def _unsupported_encryption() -> CodedError:
    return CodedError(
        Code.KEY_PARSE_FAILED,
        "Failed to parse private key: it is encrypted with an algorithm that is not supported; "
        "`openssl pkcs8 -topk8 -v2 aes-256-cbc` encrypts it anew",
    )


def _unsupported(what: str) -> CodedError:
    return CodedError(
        Code.KEY_PARSE_FAILED, f"Failed to parse private key: it is not RSA, ECC or Ed25519 but {what}"
    )


def supported(key: object) -> PrivateKey:
    """Return a key that a library has loaded; CodedError 2003 if it is of an unsupported kind."""
    match key:
        case rsa.RSAPrivateKey() | ed25519.Ed25519PrivateKey():
            return key
        case ec.EllipticCurvePrivateKey():
            if not isinstance(key.curve, _GO_CURVES):
                raise _unsupported(f"on the curve {key.curve.name}")
            return key
        case _ if _ml_dsa(key):
            return key  # type: ignore[return-value]  # _ml_dsa has just told what it is
        case _:
            raise _unsupported(
                f"of another kind ({type(key).__name__.removesuffix('PrivateKey').strip('_')})"
            )


def _ml_dsa(key: object) -> str:
    """Return the OID of an ML-DSA key, private or public; "" for any other key."""
    if mldsa is not None:
        for name, dotted in _ML_DSA_OIDS.items():
            for kind in ("Private", "Public"):
                key_class = getattr(mldsa, f"MLDSA{name}{kind}Key", None)
                if key_class is not None and isinstance(key, key_class):
                    return dotted
    return ""


def key_to_pem(key: PrivateKey) -> str:
    """Write a key as CFSSL does: PKCS #1, SEC 1, or PKCS #8 under the label `Ed25519 PRIVATE KEY`.

    ML-DSA keys, which CFSSL does not support, are PKCS #8 under the usual label.
    """
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        label = "RSA PRIVATE KEY" if isinstance(key, rsa.RSAPrivateKey) else "EC PRIVATE KEY"
        form = serialization.PrivateFormat.TraditionalOpenSSL
    else:
        label = "Ed25519 PRIVATE KEY" if isinstance(key, ed25519.Ed25519PrivateKey) else "PRIVATE KEY"
        form = serialization.PrivateFormat.PKCS8
    data = key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    return pem.encode(label, data)


def signature_hash(key: PrivateKey | PublicKey) -> hashes.HashAlgorithm | None:
    """Return the hash a key signs certificates and requests with; None for algorithms with their own.

    RSA: SHA-512 from 4096 bits, SHA-384 from 3072, SHA-256 from 2048, otherwise SHA-1. ECDSA: by curve.
    """
    match key:
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            for bits, algorithm in ((4096, hashes.SHA512), (3072, hashes.SHA384), (2048, hashes.SHA256)):
                if key.key_size >= bits:
                    return algorithm()
            return hashes.SHA1()  # noqa: S303  (CFSSL's rule for keys that are weak anyway)
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            by_curve: dict[str, hashes.HashAlgorithm] = {
                "secp256r1": hashes.SHA256(),
                "secp384r1": hashes.SHA384(),
                "secp521r1": hashes.SHA512(),
            }
            return by_curve.get(key.curve.name, hashes.SHA1())  # noqa: S303  (as above)
        case _:
            return None


def signature_algorithm(key: PrivateKey | PublicKey) -> bytes:
    """Encode the AlgorithmIdentifier of signatures by this key (RFC 4055, RFC 5758, RFC 8410, RFC 9881)."""
    algorithm = signature_hash(key)
    match key:
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            assert algorithm is not None
            return der.sequence(der.oid(_RSA_OIDS[algorithm.name]), der.NULL)
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            assert algorithm is not None
            return der.sequence(der.oid(_ECDSA_OIDS[algorithm.name]))
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return der.sequence(der.oid(ED25519))
        case _:
            return der.sequence(der.oid(_ml_dsa(key)))


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign bytes with the algorithm of `signature_algorithm`."""
    algorithm = signature_hash(key)
    match key:
        case rsa.RSAPrivateKey():
            assert algorithm is not None
            return key.sign(data, padding.PKCS1v15(), algorithm)
        case ec.EllipticCurvePrivateKey():
            assert algorithm is not None
            return key.sign(data, ec.ECDSA(algorithm))
        case _:
            return key.sign(data)


def signer(key: PrivateKey) -> Callable[[bytes], bytes]:
    """Return `sign` for one key, with what does not depend on the data worked out before."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and (algorithm := signature_hash(key)) is not None:
        scheme = ec.ECDSA(algorithm)
        return lambda data: key.sign(data, scheme)
    return lambda data: sign(key, data)


def public_key_info(key: PrivateKey | PublicKey) -> bytes:
    """Return the DER of the SubjectPublicKeyInfo of a key or of its public half."""
    public = key if hasattr(key, "public_bytes") else key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_public_key(certificate: x509.Certificate) -> None:
    """Raise CodedError 2200 unless a certificate's key is of a kind that keys of ours can be."""
    try:
        public: object = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        public = None
    kinds = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
    if not isinstance(public, kinds) and not _ml_dsa(public):
        raise CodedError(Code.KEY_UNSUPPORTED, "Private key algorithm is not RSA, ECC or Ed25519")


def check_key_matches(key: PrivateKey, certificate: x509.Certificate) -> None:
    """Raise CodedError 2300 unless key and certificate belong together (2200 for unsupported keys)."""
    try:
        public = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as err:
        raise CodedError(
            Code.KEY_UNSUPPORTED, "the certificate's key is damaged, or not RSA, ECC or Ed25519"
        ) from err
    # compared as keys: a point may be compressed in the certificate
    if public != key.public_key():
        raise CodedError(
            Code.KEY_MISMATCH,
            "Private key does not match public key: key and certificate do not belong together",
        )
