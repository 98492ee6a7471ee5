"""Certificates and requests of every kind, the odd ones included, written octet by octet.

Their signatures are worthless: certinfo verifies nothing.
"""

from __future__ import annotations

import base64
import textwrap
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519

from ocspd.pki import der

RSA_SHA256 = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
if TYPE_CHECKING:
    from collections.abc import Callable

_UTF8, _PRINTABLE, _IA5, _T61, _BMP, _NUMERIC = 0x0C, 0x13, 0x16, 0x14, 0x1E, 0x12
_CN, _SERIAL, _C, _L, _ST, _STREET, _O, _OU, _POSTAL = (
    f"2.5.4.{arc}" for arc in (3, 5, 6, 7, 8, 9, 10, 11, 17)
)
_EMAIL = "1.2.840.113549.1.9.1"
_DC = "0.9.2342.19200300.100.1.25"
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"


def text(value: str, tag: int = _UTF8) -> bytes:
    return der.tlv(tag, value.encode("utf-16-be" if tag == _BMP else "utf-8"))


def name(*rdns: list[tuple[str, bytes]]) -> bytes:
    """Encode a Name; each argument is one RDN, its attributes in the order given."""
    return der.sequence(
        *(der.tlv(0x31, *(der.sequence(der.oid(oid), value) for oid, value in rdn)) for rdn in rdns)
    )


PLAIN = name([(_CN, text("plain.example"))])
NAMES = {
    "empty": name(),
    "all fields": name(
        [(_C, text("FR", _PRINTABLE))],
        [(_ST, text("Occitanie"))],
        [(_L, text("Toulouse"))],
        [(_STREET, text("1 rue & <allée>"))],
        [(_POSTAL, text("31000", _NUMERIC))],
        [(_O, text('ACME, "Inc"'))],
        [(_OU, text("one"))],
        [(_OU, text("two"))],
        [(_CN, text("a.example"))],
        [(_SERIAL, text("42", _PRINTABLE))],
    ),
    "multi-valued": name([(_O, text("z")), (_OU, text("y")), (_CN, text("x"))], [(_O, text("second"))]),
    "unsorted set": name([(_CN, text("x")), (_O, text("z"))]),
    "two common names": name([(_CN, text("first"))], [(_CN, text("last"))]),
    "others": name(
        [(_DC, text("example", _IA5))], [(_EMAIL, text("a@b.example", _IA5))], [("1.2.3", text("x"))]
    ),
    "string types": name(
        [(_CN, text("héé", _BMP))], [(_O, text("plain", _T61))], [(_OU, text("7", _NUMERIC))]
    ),
    "escapes": name([(_CN, text('a\tb\u2028c\x7fd\\e"f<g>&'))]),
    "empty values": name([(_CN, text(""))], [(_O, text(""))]),
    "ten thousand characters": name([(_CN, text("x" * 10_000))]),
    "hundred units": name(*([(_OU, text(str(number)))] for number in range(100))),
    "empty set": name([], [(_CN, text("x"))]),
}

ALGORITHMS = {
    dotted: der.sequence(der.oid(dotted), der.NULL)
    for dotted in (
        "1.2.840.113549.1.1.2",
        "1.2.840.113549.1.1.4",
        "1.2.840.113549.1.1.5",
        "1.2.840.113549.1.1.11",
        "1.2.840.113549.1.1.12",
        "1.2.840.113549.1.1.13",
        "1.2.840.10040.4.3",
        "2.16.840.1.101.3.4.3.2",
        "1.2.840.10045.4.1",
        "1.2.840.10045.4.3.2",
        "1.2.840.10045.4.3.3",
        "1.2.840.10045.4.3.4",
        "1.3.14.3.2.29",
        "1.2.3.4",
    )
}
ALGORITHMS["Ed25519"] = der.sequence(der.oid("1.3.101.112"))
ALGORITHMS["Ed25519 with parameters"] = der.sequence(der.oid("1.3.101.112"), der.NULL)


def pss(digest: str, salt: int, *, mask: str = "", trailer: bytes = b"", null: bytes = der.NULL) -> bytes:
    """Encode the AlgorithmIdentifier of RSASSA-PSS."""
    hashed = der.sequence(der.oid(digest), null)
    masked = der.sequence(der.oid("1.2.840.113549.1.1.8"), der.sequence(der.oid(mask or digest), null))
    fields = (
        der.tlv(0xA0, hashed),
        der.tlv(0xA1, masked),
        der.tlv(0xA2, der.integer(salt)),
        trailer and der.tlv(0xA3, trailer),
    )
    return der.sequence(der.oid("1.2.840.113549.1.1.10"), der.sequence(*fields))


_SHA256, _SHA384, _SHA512, _SHA1 = (
    "2.16.840.1.101.3.4.2.1",
    "2.16.840.1.101.3.4.2.2",
    "2.16.840.1.101.3.4.2.3",
    "1.3.14.3.2.26",
)
PSS = {
    "PSS SHA-256": pss(_SHA256, 32),
    "PSS SHA-384": pss(_SHA384, 48),
    "PSS SHA-512": pss(_SHA512, 64),
    "PSS without NULL": pss(_SHA256, 32, null=b""),
    "PSS short salt": pss(_SHA256, 20),
    "PSS other mask": pss(_SHA256, 32, mask=_SHA1),
    "PSS SHA-1": pss(_SHA1, 20),
    "PSS trailer 1": pss(_SHA256, 32, trailer=der.integer(1)),
    "PSS trailer 2": pss(_SHA256, 32, trailer=der.integer(2)),
    "PSS defaults": der.sequence(der.oid("1.2.840.113549.1.1.10"), der.sequence()),
    "PSS bare": der.sequence(der.oid("1.2.840.113549.1.1.10")),
}


def _info(key: object) -> bytes:
    public: bytes = key.public_key().public_bytes(  # type: ignore[attr-defined]  # every private key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def rsa_info(modulus: int, exponent: int) -> bytes:
    """Encode an RSA key that need not be one."""
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
    bits = b"\0" + der.sequence(der.integer(modulus), der.integer(exponent))
    return der.sequence(algorithm, der.tlv(der.BIT_STRING, bits))


@cache
def keys() -> dict[str, bytes]:
    """Return a SubjectPublicKeyInfo of every kind."""
    return {
        "RSA": _info(rsa.generate_private_key(65537, 2048)),
        "RSA 16384": rsa_info((1 << 16383) + 12345, 65537),
        "RSA 512": rsa_info((1 << 511) + 1, 3),
        "P-224": _info(ec.generate_private_key(ec.SECP224R1())),
        "P-256": _info(ec.generate_private_key(ec.SECP256R1())),
        "P-384": _info(ec.generate_private_key(ec.SECP384R1())),
        "P-521": _info(ec.generate_private_key(ec.SECP521R1())),
        "Ed25519": _info(ed25519.Ed25519PrivateKey.generate()),
        "DSA": _info(dsa.generate_private_key(1024)),
        "Ed448": _info(ed448.Ed448PrivateKey.generate()),
        "unknown": der.sequence(der.sequence(der.oid("1.2.3.4")), der.tlv(der.BIT_STRING, b"\0abc")),
        "PSS key": der.sequence(
            der.sequence(der.oid("1.2.840.113549.1.1.10")), der.tlv(der.BIT_STRING, b"\0abc")
        ),
    }


@cache
def refused_keys() -> dict[str, bytes]:
    """Return keys that Go refuses to read."""
    return {
        "secp256k1": _info(ec.generate_private_key(ec.SECP256K1())),
        "RSA without NULL": rsa_info(5, 3).replace(der.NULL, b"", 1),
        "RSA negative": rsa_info(-5, 3),
        "Ed25519 short": der.sequence(
            der.sequence(der.oid("1.3.101.112")), der.tlv(der.BIT_STRING, b"\0abc")
        ),
        "point off the curve": keys()["P-256"][:-1] + bytes((keys()["P-256"][-1] ^ 1,)),
        "X25519": _info(x25519.X25519PrivateKey.generate())[:-1],
    }


def general(tag: int, content: bytes) -> bytes:
    return der.tlv(0x80 | tag, content)


SANS = {
    "dns": [general(2, b"a.example"), general(2, b"*.b.example"), general(2, b"")],
    "ip": [general(7, bytes((192, 0, 2, 1))), general(7, bytes(15) + b"\1"), general(7, bytes(16))],
    "mapped": [general(7, bytes(10) + b"\xff\xff" + bytes((10, 0, 0, 1)))],
    "long ip": [general(7, bytes.fromhex("20010db8000000010000000000000001"))],
    "single zero group": [general(7, bytes.fromhex("20010db8000000010001000100010001"))],
    "order": [
        general(7, bytes(4)),
        general(2, b"z.example"),
        general(1, b"a@b.example"),
        general(2, b"a.example"),
    ],
    "email and uri": [general(1, b"a@b.example"), general(6, b"https://u:p@h.example:1/p%2Fq?x=1&y#f%20g")],
    "uris": [
        general(6, uri)
        for uri in (
            b"urn:uuid:123",
            b"mailto:a@b.example",
            b"/only/path",
            b"http://h.example?",
            b"http://h.example/?",
            b"http://h.example/a b",
            b"HTTP://H.example/%7Euser;p=1",
            b"http://[2001:db8::1]:80/",
            b"spiffe://trust.example/ns/x",
            b"file:///etc/x",
            b"tel:+1",
            b"x:/rooted",
            b"//h.example/x",
            b"http://h.example/#",
            b"http://h.example/%e4%f6#%e4",
            b"http://h.example/a?b?c",
            b"*",
            b"a/b",
        )
    ],
    "others": [
        der.tlv(0xA0, der.oid("1.2.3"), der.tlv(0xA0, text("other"))),
        der.tlv(0xA4, PLAIN),
        general(8, der.oid("1.2.3.4")[2:]),
        general(2, b"kept.example"),
    ],
    "none": [],
}


ODD = [("1.2.3", text("a name of a kind that is odd"))]
DNS = general(2, b"a.example")
IPV6 = general(7, bytes(range(16)))


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    flag = b"\x01\x01\xff" if critical else b""
    return der.sequence(der.oid(oid), flag, der.tlv(der.OCTET_STRING, value))


def san(names: list[bytes], *, critical: bool = False) -> bytes:
    return extension("2.5.29.17", der.sequence(*names), critical=critical)


SKI = extension("2.5.29.14", der.tlv(der.OCTET_STRING, bytes((8, 0, 255, 16))))
AKI = extension("2.5.29.35", der.sequence(general(0, bytes(range(20)))))
AKI_OTHER = extension("2.5.29.35", der.sequence(der.tlv(0xA1, der.tlv(0xA4, PLAIN)), general(2, b"\7")))


def certificate(
    *,
    version: int = 3,
    serial: int = 4711,
    algorithm: bytes = RSA_SHA256,
    issuer: bytes = PLAIN,
    validity: tuple[bytes, bytes] = (b"200101000000Z", b"491231235959Z"),
    subject: bytes = PLAIN,
    key: bytes | None = None,
    extensions: tuple[bytes, ...] = (),
) -> bytes:
    """Encode a certificate; a validity of 13 bytes is a UTCTime, of 15 a GeneralizedTime."""
    times = (der.tlv(0x17 if len(each) == 13 else 0x18, each) for each in validity)
    body = der.sequence(
        der.tlv(0xA0, der.integer(version - 1)) if version > 1 else b"",
        der.integer(serial),
        algorithm,
        issuer,
        der.sequence(*times),
        subject,
        key or keys()["P-256"],
        der.tlv(0xA3, der.sequence(*extensions)) if extensions else b"",
    )
    return der.sequence(body, algorithm, der.tlv(der.BIT_STRING, b"\0signature"))


def certificates() -> dict[str, bytes]:
    """Return certificates that both programs read."""
    return {
        **{f"subject: {each}": certificate(subject=value) for each, value in NAMES.items()},
        **{f"issuer: {each}": certificate(issuer=value) for each, value in NAMES.items()},
        **{f"algorithm: {each}": certificate(algorithm=value) for each, value in (ALGORITHMS | PSS).items()},
        **{f"key: {each}": certificate(key=value) for each, value in keys().items()},
        **{f"names: {each}": certificate(extensions=(san(value),)) for each, value in SANS.items() if value},
        "key identifiers": certificate(extensions=(SKI, AKI)),
        "key identifiers reversed": certificate(extensions=(AKI, SKI)),
        "issuer and serial as key identifier": certificate(extensions=(AKI_OTHER,)),
        "no key identifier": certificate(extensions=(san(SANS["dns"], critical=True),)),
        "version 1": certificate(version=1),
        "serial 0": certificate(serial=0),
        "serial 1": certificate(serial=1),
        "serial of 20 bytes": certificate(serial=(1 << 159) - 1),
        "serial of 200 bytes": certificate(serial=(1 << 1599) + 7),
        "negative serial": certificate(serial=-5),
        "generalized time": certificate(validity=(b"19500101000000Z", b"99991231235959Z")),
        "1950": certificate(validity=(b"500101000000Z", b"491231235959Z")),
        "unknown critical extension": certificate(extensions=(extension("1.2.3.4", b"x", critical=True),)),
    }


def request(
    *,
    version: int = 0,
    subject: bytes = PLAIN,
    key: bytes | None = None,
    attributes: tuple[bytes, ...] = (),
    algorithm: bytes = RSA_SHA256,
    signature: bytes = b"\0signature",
) -> bytes:
    """Encode a request."""
    body = der.sequence(der.integer(version), subject, key or keys()["P-256"], der.tlv(0xA0, *attributes))
    return der.sequence(body, algorithm, der.tlv(der.BIT_STRING, signature))


def attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.tlv(0x31, *values))


def wanted(*extensions: bytes) -> bytes:
    """Encode the attribute that asks for extensions."""
    return attribute(_EXTENSION_REQUEST, der.sequence(*extensions))


_USAGE = extension("2.5.29.15", bytes.fromhex("03020780"), critical=True)


def _odd_subject() -> bytes:
    return name(
        [("1.2.3.1", der.integer(-77))],
        [("1.2.3.2", der.tlv(der.BIT_STRING, b"\4\xf0"))],
        [("1.2.3.3", der.oid("2.999.1"))],
        [("1.2.3.4", der.tlv(0x17, b"200101000000Z"))],
        [("1.2.3.5", der.tlv(0x18, b"20200101000000Z"))],
        [("1.2.3.6", der.tlv(der.OCTET_STRING, b"octets"))],
        [("1.2.3.7", der.tlv(0x0A, b"\1"))],
        [("1.2.3.8", der.sequence(der.integer(1)))],
        [(_CN, der.integer(5))],
        [(_CN, text("text"))],
    )


def requests() -> dict[str, bytes]:
    """Return requests that both programs read."""
    return {
        **{f"subject: {each}": request(subject=value) for each, value in NAMES.items()},
        **{f"algorithm: {each}": request(algorithm=value) for each, value in (ALGORITHMS | PSS).items()},
        **{f"key: {each}": request(key=value) for each, value in keys().items()},
        **{f"names: {each}": request(attributes=(wanted(san(value)),)) for each, value in SANS.items()},
        "subject of other types": request(subject=_odd_subject()),
        "version 2": request(version=2),
        "extensions": request(attributes=(wanted(_USAGE, SKI, extension("1.2.3.4", b"")),)),
        "no extensions": request(attributes=(wanted(),)),
        "challenge password": request(
            attributes=(attribute("1.2.840.113549.1.9.7", text("secret")), wanted(_USAGE))
        ),
        "two extension requests": request(attributes=(wanted(_USAGE), wanted(SKI))),
        "two values": request(
            attributes=(attribute(_EXTENSION_REQUEST, der.sequence(_USAGE), der.sequence(SKI)),)
        ),
        "attributes of Windows": request(
            attributes=(
                attribute("1.3.6.1.4.1.311.13.2.3", text("10.0.1", _IA5)),
                attribute("1.3.6.1.4.1.311.21.20", der.sequence(der.integer(5), text("host"))),
                wanted(_USAGE),
            )
        ),
        "attribute without values": request(attributes=(attribute("1.2.3.4"),)),
        "attribute with an empty list": request(attributes=(attribute("1.2.3.4", der.sequence()),)),
        "attribute with any value": request(
            attributes=(attribute("1.2.3.4", der.sequence(der.sequence(der.oid("1.2.3"), der.integer(9)))),)
        ),
        "attribute that is none": request(attributes=(der.sequence(der.integer(1)),)),
        "signature of odd bits": request(signature=b"\3\xf8\xf8"),
        "empty signature": request(signature=b"\0"),
    }


def sized(make: Callable[[int], bytes], size: int) -> bytes:
    """Return what is made of many pieces, of about a size."""
    return make(size // 20)


def armour(label: str, data: bytes) -> bytes:
    """Write PEM."""
    body = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()
