"""Flags that several verbs have beside CFSSL's global ones: each is declared here, once, with its range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.cli.flags import boolean, integer, string, strings

if TYPE_CHECKING:
    from ocspd.cli.flags import Flag

RESPONDER_ID = string(
    "responder-id",
    "how responses name their signer: key or name (default: key, but name where the CA signs for itself)",
)
EMBED_CA = boolean(
    "embed-ca", "embed the CA certificate, for servers that staple beside a chain of the leaf only"
)
CERTID_HASH = string(
    "certid-hash",
    "hashes of the CertIDs signed, joined by commas: sha1, sha256, sha384, sha512",
    "sha1,sha256",
)
SIGNER_FLAGS = (
    strings("ca", "CA whose certificates are signed for -- accepts '[file:]fname' or 'env:varname'"),
    strings("responder", "Certificate for OCSP responder"),
    strings("responder-key", "private key for OCSP responder certificate"),
    "interval",
    CERTID_HASH,
    RESPONDER_ID,
    EMBED_CA,
)
"""One -ca, -responder and -responder-key for each issuer, in the same order; the rest is for all of them."""

PROCESSES = integer(
    "processes", "signing processes of a pass (0: one for each usable CPU)", limits=limits.PROCESSES
)
ALLOW_RSA_1024 = boolean(
    "allow-rsa-1024", "sign requests whose RSA key has 1024 to 2047 bits, which verifiers refuse"
)
"""Of every verb that signs requests with a CA here."""


def admin_flags(port: int, shows: str) -> tuple[Flag, Flag]:
    """Declare where a long-running verb shows an operator its state; `shows` are the paths there."""
    return (
        string("admin-address", f"address of {shows}", "127.0.0.1"),
        integer("admin-port", "port of the same (0: none)", port, limits=limits.ADMIN_PORT),
    )
