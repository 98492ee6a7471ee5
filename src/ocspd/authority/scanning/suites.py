"""Names and numbers of TLS: versions, cipher suites, groups and signature algorithms (IANA's registries).

A cipher suite is shown under OpenSSL's name where CFSSL knows one, otherwise under that of the registry.
"""

from __future__ import annotations

SSL30, TLS10, TLS11, TLS12, TLS13 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
VERSIONS = {TLS13: "TLS 1.3", TLS12: "TLS 1.2", TLS11: "TLS 1.1", TLS10: "TLS 1.0", SSL30: "SSL 3.0"}
"""Newest first, the order of a scan."""

_REGISTRY = """
0000 NULL_WITH_NULL_NULL 0001 RSA_WITH_NULL_MD5 0002 RSA_WITH_NULL_SHA 0003 RSA_EXPORT_WITH_RC4_40_MD5
0004 RSA_WITH_RC4_128_MD5 0005 RSA_WITH_RC4_128_SHA 0006 RSA_EXPORT_WITH_RC2_CBC_40_MD5
0007 RSA_WITH_IDEA_CBC_SHA 0008 RSA_EXPORT_WITH_DES40_CBC_SHA 0009 RSA_WITH_DES_CBC_SHA
000A RSA_WITH_3DES_EDE_CBC_SHA 000B DH_DSS_EXPORT_WITH_DES40_CBC_SHA 000C DH_DSS_WITH_DES_CBC_SHA
000D DH_DSS_WITH_3DES_EDE_CBC_SHA 000E DH_RSA_EXPORT_WITH_DES40_CBC_SHA 000F DH_RSA_WITH_DES_CBC_SHA
0010 DH_RSA_WITH_3DES_EDE_CBC_SHA 0011 DHE_DSS_EXPORT_WITH_DES40_CBC_SHA 0012 DHE_DSS_WITH_DES_CBC_SHA
0013 DHE_DSS_WITH_3DES_EDE_CBC_SHA 0014 DHE_RSA_EXPORT_WITH_DES40_CBC_SHA 0015 DHE_RSA_WITH_DES_CBC_SHA
0016 DHE_RSA_WITH_3DES_EDE_CBC_SHA 0017 DH_anon_EXPORT_WITH_RC4_40_MD5 0018 DH_anon_WITH_RC4_128_MD5
0019 DH_anon_EXPORT_WITH_DES40_CBC_SHA 001A DH_anon_WITH_DES_CBC_SHA 001B DH_anon_WITH_3DES_EDE_CBC_SHA
001E KRB5_WITH_DES_CBC_SHA 001F KRB5_WITH_3DES_EDE_CBC_SHA 0020 KRB5_WITH_RC4_128_SHA
0021 KRB5_WITH_IDEA_CBC_SHA 0022 KRB5_WITH_DES_CBC_MD5 0023 KRB5_WITH_3DES_EDE_CBC_MD5
0024 KRB5_WITH_RC4_128_MD5 0025 KRB5_WITH_IDEA_CBC_MD5 0026 KRB5_EXPORT_WITH_DES_CBC_40_SHA
0027 KRB5_EXPORT_WITH_RC2_CBC_40_SHA 0028 KRB5_EXPORT_WITH_RC4_40_SHA 0029 KRB5_EXPORT_WITH_DES_CBC_40_MD5
002A KRB5_EXPORT_WITH_RC2_CBC_40_MD5 002B KRB5_EXPORT_WITH_RC4_40_MD5
"""
"""The suites that follow no pattern: number, and name without TLS_."""

_EXCHANGES = ("RSA", "DH_DSS", "DH_RSA", "DHE_DSS", "DHE_RSA", "DH_anon")
_ELLIPTIC = ("ECDHE_ECDSA", "ECDH_ECDSA", "ECDHE_RSA", "ECDH_RSA")
_PSK = ("PSK", "DHE_PSK", "RSA_PSK")


def _runs() -> dict[int, str]:
    """Return the suites that were registered in runs: the same ciphers for one key exchange after another."""
    found: dict[int, str] = {}

    def run(start: int, exchanges: tuple[str, ...], *ciphers: str) -> None:
        for number, name in enumerate(
            f"{exchange}_WITH_{each}" for exchange in exchanges for each in ciphers
        ):
            found[start + number] = name

    run(0x002C, _PSK, "NULL_SHA")
    run(0x002F, _EXCHANGES, "AES_128_CBC_SHA")
    run(0x0035, _EXCHANGES, "AES_256_CBC_SHA")
    run(0x003B, ("RSA",), "NULL_SHA256", "AES_128_CBC_SHA256", "AES_256_CBC_SHA256")
    run(0x003E, ("DH_DSS", "DH_RSA", "DHE_DSS"), "AES_128_CBC_SHA256")
    run(0x0041, _EXCHANGES, "CAMELLIA_128_CBC_SHA")
    run(0x0067, ("DHE_RSA",), "AES_128_CBC_SHA256")
    run(0x0068, ("DH_DSS", "DH_RSA", "DHE_DSS", "DHE_RSA"), "AES_256_CBC_SHA256")
    run(0x006C, ("DH_anon",), "AES_128_CBC_SHA256", "AES_256_CBC_SHA256")
    run(0x0084, _EXCHANGES, "CAMELLIA_256_CBC_SHA")
    run(0x008A, _PSK, "RC4_128_SHA", "3DES_EDE_CBC_SHA", "AES_128_CBC_SHA", "AES_256_CBC_SHA")
    run(0x0096, _EXCHANGES, "SEED_CBC_SHA")
    gcm = ("RSA", "DHE_RSA", "DH_RSA", "DHE_DSS", "DH_DSS", "DH_anon")
    run(0x009C, (*gcm, *_PSK), "AES_128_GCM_SHA256", "AES_256_GCM_SHA384")
    run(0x00AE, _PSK, "AES_128_CBC_SHA256", "AES_256_CBC_SHA384", "NULL_SHA256", "NULL_SHA384")
    run(0x00BA, _EXCHANGES, "CAMELLIA_128_CBC_SHA256")
    run(0x00C0, _EXCHANGES, "CAMELLIA_256_CBC_SHA256")
    old = ("NULL_SHA", "RC4_128_SHA", "3DES_EDE_CBC_SHA", "AES_128_CBC_SHA", "AES_256_CBC_SHA")
    run(0xC001, ("ECDH_ECDSA", "ECDHE_ECDSA", "ECDH_RSA", "ECDHE_RSA", "ECDH_anon"), *old)
    for number, cipher in enumerate(("3DES_EDE_CBC_SHA", "AES_128_CBC_SHA", "AES_256_CBC_SHA")):
        run(0xC01A + 3 * number, ("SRP_SHA", "SRP_SHA_RSA", "SRP_SHA_DSS"), cipher)
    run(0xC023, _ELLIPTIC, "AES_128_CBC_SHA256", "AES_256_CBC_SHA384")
    run(0xC02B, _ELLIPTIC, "AES_128_GCM_SHA256", "AES_256_GCM_SHA384")
    psk = ("AES_128_CBC_SHA256", "AES_256_CBC_SHA384", "NULL_SHA", "NULL_SHA256", "NULL_SHA384")
    run(0xC033, ("ECDHE_PSK",), *old[1:], *psk)
    aria_cbc = ("ARIA_128_CBC_SHA256", "ARIA_256_CBC_SHA384")
    aria_gcm = ("ARIA_128_GCM_SHA256", "ARIA_256_GCM_SHA384")
    run(0xC03C, (*_EXCHANGES, *_ELLIPTIC), *aria_cbc)
    later = ("RSA", "DHE_RSA", "DH_RSA", "DHE_DSS", "DH_DSS", "DH_anon")
    run(0xC050, (*later, *_ELLIPTIC), *aria_gcm)
    run(0xC064, _PSK, *aria_cbc)
    run(0xC06A, _PSK, *aria_gcm)
    run(0xC070, ("ECDHE_PSK",), *aria_cbc)
    camellia_cbc = ("CAMELLIA_128_CBC_SHA256", "CAMELLIA_256_CBC_SHA384")
    camellia_gcm = ("CAMELLIA_128_GCM_SHA256", "CAMELLIA_256_GCM_SHA384")
    run(0xC072, _ELLIPTIC, *camellia_cbc)
    run(0xC07A, (*later, *_ELLIPTIC, *_PSK), *camellia_gcm)
    run(0xC094, (*_PSK, "ECDHE_PSK"), *camellia_cbc)
    for number, size in enumerate(("CCM", "CCM_8")):
        run(0xC09C + 4 * number, ("RSA", "DHE_RSA"), f"AES_128_{size}", f"AES_256_{size}")
    run(0xC0A4, ("PSK", "DHE_PSK"), "AES_128_CCM", "AES_256_CCM")
    run(0xC0A8, ("PSK", "PSK_DHE"), "AES_128_CCM_8", "AES_256_CCM_8")
    run(0xC0AC, ("ECDHE_ECDSA",), "AES_128_CCM", "AES_256_CCM", "AES_128_CCM_8", "AES_256_CCM_8")
    run(0xCC13, ("ECDHE_RSA", "ECDHE_ECDSA", "DHE_RSA"), "CHACHA20_POLY1305_SHA256")  # of a draft
    run(0xCCA8, ("ECDHE_RSA", "ECDHE_ECDSA", "DHE_RSA"), "CHACHA20_POLY1305_SHA256")  # RFC 7905
    run(0xCCAB, ("PSK", "ECDHE_PSK", "DHE_PSK", "RSA_PSK"), "CHACHA20_POLY1305_SHA256")
    return found


def _table() -> dict[int, str]:
    words = _REGISTRY.split()
    single = {int(number, 16): name for number, name in zip(words[::2], words[1::2], strict=True)}
    return {number: f"TLS_{name}" for number, name in sorted((single | _runs()).items())}


SUITES = _table()
"""The cipher suites of SSL 3.0 to TLS 1.2 by number, under the registry's names."""

TLS13_SUITES = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0x1304: "TLS_AES_128_CCM_SHA256",
    0x1305: "TLS_AES_128_CCM_8_SHA256",
}

_CIPHERS = {
    "RC4_128_MD5": "RC4-MD5",
    "RC4_128_SHA": "RC4-SHA",
    "RC4_40_MD5": "RC4-MD5",
    "RC2_CBC_40_MD5": "RC2-CBC-MD5",
    "IDEA_CBC_SHA": "IDEA-CBC-SHA",
    "DES40_CBC_SHA": "DES-CBC-SHA",
    "DES_CBC_SHA": "DES-CBC-SHA",
    "3DES_EDE_CBC_SHA": "DES-CBC3-SHA",
    "SEED_CBC_SHA": "SEED-SHA",
    **{
        f"AES_{bits}_CBC_{digest}": f"AES{bits}-{digest}"
        for bits in (128, 256)
        for digest in ("SHA", "SHA256")
    },
    "AES_256_CBC_SHA384": "AES256-SHA384",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "CAMELLIA_128_CBC_SHA": "CAMELLIA128-SHA",
    "CAMELLIA_256_CBC_SHA": "CAMELLIA256-SHA",
}
"""OpenSSL's names of ciphers with their MAC; CFSSL has no others."""
_NAMED_EXCHANGES = {*_EXCHANGES[:5], *_ELLIPTIC}


def is_elliptic(number: int) -> bool:
    """Return whether the server chooses a curve for the suite (ephemeral keys)."""
    return SUITES.get(number, "").startswith(("TLS_ECDHE_", "TLS_ECDH_anon_"))


def is_signed(number: int) -> bool:
    """Return whether the server signs its key exchange with the key of its certificate."""
    name = SUITES.get(number, "")
    return name.startswith(("TLS_ECDHE_", "TLS_DHE_")) and "PSK" not in name


def short_name(number: int) -> str:
    """Return the name under which CFSSL shows a suite in the output of CipherSuite."""
    name = SUITES.get(number) or TLS13_SUITES.get(number)
    if name is None:
        return f"0x{number:04X}"
    exchange, _, cipher = name.removeprefix("TLS_").partition("_WITH_")
    if number in range(0xCCA8, 0xCCAB):
        return f"{exchange.replace('_', '-')}-CHACHA20-POLY1305"
    if exchange == "PSK" and number in range(0x008A, 0x008E):
        ending = {"RC4_128_SHA": "RC4-SHA", "3DES_EDE_CBC_SHA": "3DES-EDE-CBC-SHA"}
        return f"PSK-{ending.get(cipher, cipher.replace('AES_', 'AES').replace('_', '-'))}"
    if exchange.startswith("SRP_SHA"):
        signed = exchange.removeprefix("SRP_SHA").replace("_", "-")
        return f"SRP{signed}-{cipher.replace('_', '-')}"
    export = exchange.endswith("_EXPORT")
    exchange = exchange.removesuffix("_EXPORT")
    known = _CIPHERS.get(cipher)
    if known is None or exchange not in _NAMED_EXCHANGES:
        return name
    start = "" if exchange == "RSA" else exchange.replace("_", "-") + "-"
    if known.startswith("DES-") and exchange.startswith("DHE_"):
        start = f"E{start[:2]}{start[3:]}"  # EDH, OpenSSL's older word
    return f"{'EXP-' if export else ''}{start}{known}"


_CURVES = """
sect163k1 sect163r1 sect163r2 sect193r1 sect193r2 sect233k1 sect233r1 sect239k1 sect283k1 sect283r1 sect409k1
sect409r1 sect571k1 sect571r1 secp160k1 secp160r1 secp160r2 secp192k1 secp192r1 secp224k1 secp224r1 secp256k1
secp256r1 secp384r1 secp521r1 brainpoolP256r1 brainpoolP384r1 brainpoolP512r1 x25519 x448
brainpoolP256r1tls13 brainpoolP384r1tls13 brainpoolP512r1tls13
"""
"""From number 1 on."""

GROUPS = {
    **dict(enumerate(_CURVES.split(), 1)),
    256: "ffdhe2048",
    257: "ffdhe3072",
    258: "ffdhe4096",
    259: "ffdhe6144",
    260: "ffdhe8192",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
}
"""Groups of supported_groups: curves, and for TLS 1.3 others as well."""

CURVES = tuple(number for number in GROUPS if number <= 30)
"""Those that a server of TLS 1.2 or older may choose."""

SIGNATURES: dict[int, tuple[str, str]] = {
    **{
        hash_number << 8 | number: (signature, digest)
        for hash_number, digest in ((4, "SHA256"), (5, "SHA384"), (6, "SHA512"), (2, "SHA1"), (3, "SHA224"))
        for number, signature in ((1, "RSA"), (3, "ECDSA"), (2, "DSA"))
    },
    0x0101: ("RSA", "MD5"),
    0x0804: ("RSA-PSS", "SHA256"),
    0x0805: ("RSA-PSS", "SHA384"),
    0x0806: ("RSA-PSS", "SHA512"),
    0x0807: ("Ed25519", "None"),
    0x0808: ("Ed448", "None"),
}
"""Signature schemes: the signature algorithm and the hash, as CFSSL shows them."""
