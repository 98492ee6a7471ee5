"""Flags that describe OCSP signers; `signers` makes them."""

from __future__ import annotations

from ocspd.cli.flags import boolean, string, strings

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
