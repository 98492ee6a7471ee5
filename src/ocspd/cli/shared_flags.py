"""Flags that several verbs share in addition to CFSSL's global ones, each declared once with its range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.cli.flags import boolean, integer, string, strings

if TYPE_CHECKING:
    from ocspd.cli.flags import Flag

RESPONDER_ID = string(
    "responder-id",
    "how responses identify their signer: key or name (default: key, but name if the CA itself signs)",
)
EMBED_CA = boolean(
    "embed-ca",
    "embed the CA certificate, for servers that staple responses but send only the leaf certificate",
)
CERTID_HASH = string(
    "certid-hash",
    "CertID hashes to sign, separated by commas: sha1, sha256, sha384, sha512",
    "sha1,sha256",
)
SIGNER_FLAGS = (
    strings("ca", "CA that issued the certificates -- accepts '[file:]fname' or 'env:varname'"),
    strings("responder", "Certificate for OCSP responder"),
    strings("responder-key", "private key for OCSP responder certificate"),
    "interval",
    CERTID_HASH,
    RESPONDER_ID,
    EMBED_CA,
)
"""One -ca, -responder and -responder-key for each issuer, in the same order; the rest applies to all."""

PROCESSES = integer(
    "processes", "signing processes of a pass (0: one for each usable CPU)", limits=limits.PROCESSES
)
ALLOW_RSA_1024 = boolean(
    "allow-rsa-1024", "accept requests with RSA keys of 1024 to 2047 bits, which verifiers reject"
)
"""For every verb that signs requests with a local CA."""


NO_AIA = boolean(
    "no-aia", "do not fetch missing intermediates from the URLs in certificates (authorityInfoAccess)"
)
ALLOW_PRIVATE = boolean(
    "allow-private",
    "let requests make this server connect to loopback, private and other addresses that are not public",
)
"""For servers: what requests and certificates name is fetched from the public Internet only."""


def admin_flags(port: int, shows: str) -> tuple[Flag, Flag]:
    """Declare the listener of a long-running verb's operator endpoints; `shows` are its paths."""
    return (
        string("admin-address", f"address of {shows}", "127.0.0.1"),
        integer("admin-port", "port of these endpoints (0: none)", port, limits=limits.ADMIN_PORT),
    )
