"""What a bundle says, and CFSSL's JSON of it: the chain, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ocspd.errors import DERError
from ocspd.pki import names, ubiquity
from ocspd.pki.certs import alternative_names, certificate_to_pem
from ocspd.pki.chains import go_time
from ocspd.pki.keys import key_to_pem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.pki.chain_link import Link
    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.ubiquity import Platform

EXPIRING, NOT_UBIQUITOUS = 1, 2
"""Bits of a status code."""
SOON = timedelta(days=30)
"""A certificate that expires within this time is reported."""

_SHA2 = (
    "The bundle contains certificates signed with advanced hash functions such as SHA2, which are "
    "problematic for certain operating systems, e.g. Windows XP SP2."
)
_ECDSA = (
    "The bundle contains ECDSA signatures, which are problematic for certain operating systems, e.g. Windows "
    "XP, Android 2.2 and Android 2.3."
)
_NO_PLATFORMS = "Unable to measure bundle ubiquity: No platform metadata present."
_UNTRUSTED = "The bundle may not be trusted by the following platform(s):"
_2016, _2017 = (datetime(year, 1, 1, tzinfo=UTC) for year in (2016, 2017))
_NAMES = {
    "3": "CommonName",
    "5": "SerialNumber",
    "6": "Country",
    "7": "Locality",
    "8": "Province",
    "9": "StreetAddress",
    "10": "Organization",
    "11": "OrganizationalUnit",
    "17": "PostalCode",
}
"""By the fourth number of an attribute's OID, as CFSSL has it."""


@dataclass(slots=True, kw_only=True)
class Status:
    """CFSSL's `status`: None is `null`, which it writes for lists that nothing was added to."""

    rebundled: bool
    expiring: list[str]
    """Subject key identifiers of the certificates that expire soon."""
    untrusted: list[str] | None
    """Platforms that do not trust the root."""
    messages: list[str]
    code: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, keys in CFSSL's order."""
        return {
            "rebundled": self.rebundled,
            "expiring_SKIs": self.expiring or None,
            "untrusted_root_stores": self.untrusted,
            "messages": self.messages or None,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A certificate with its chain."""

    chain: Sequence[Link]
    """The certificate and its issuers, mostly without the root."""
    root: Link | None
    """None where none was looked for."""
    key: PrivateKey | None = field(repr=False)
    status: Status

    def to_json(self) -> dict[str, Any]:
        """Return CFSSL's JSON object; PEM in it has no newline at its end."""
        leaf = self.chain[0]
        kind, size = ubiquity.key_description(leaf.public_key)
        return {
            "bundle": "\n".join(map(_pem, self.chain)),
            "crl_support": bool(leaf.crl_urls),
            "crt": _pem(leaf),
            "expires": go_time(ubiquity.expiry(self.chain)),
            "hostnames": _hostnames(leaf),
            "issuer": _name(leaf.issuer),
            "key": "" if self.key is None else key_to_pem(self.key).strip(),
            "key_size": size,
            "key_type": kind,
            "leaf_expires": go_time(leaf.not_after),
            "ocsp": leaf.ocsp_urls or None,
            "ocsp_support": bool(leaf.ocsp_urls),
            "root": "" if self.root is None else _pem(self.root),
            "signature": ubiquity.signature_name(leaf),
            "status": self.status.to_json(),
            "subject": _name(leaf.subject),
        }


def assess(
    given: Sequence[Link],
    chain: Sequence[Link],
    key: PrivateKey | None,
    *,
    now: datetime,
    platforms: Sequence[Platform] | None = None,
) -> Bundle:
    """Make the bundle of a chain that begins with the certificate, and say what may be wrong with it.

    With `platforms` the chain ends with the root, which the bundle leaves out; with None it is as given.
    `given` is what the chain was made from.
    """
    code = 0
    messages = []
    expiring = [at for at, link in enumerate(chain) if link.not_after - now < SOON]
    if expiring:
        code |= EXPIRING
        messages.append(_expiring_text(expiring))
    distrusted: list[str] = []
    if ubiquity.hash_score(chain) <= ubiquity.HASH_SCORES["SHA2"]:
        distrusted.append(_SHA2)
    if ubiquity.key_score(chain) <= ubiquity.KEY_SCORES["ECDSA256"]:
        distrusted.append(_ECDSA)
    untrusted = None
    if platforms is not None:
        untrusted = ubiquity.untrusting(platforms, chain[-1])
        if not platforms:
            distrusted.append(_NO_PLATFORMS)
        elif untrusted:
            distrusted.append(f"{_UNTRUSTED} {', '.join(untrusted)}.")
    distrusted += _sha1_texts(chain, now)
    status = Status(
        rebundled=False,
        expiring=[chain[at].key_id.hex().upper() for at in expiring],
        untrusted=untrusted,
        messages=messages + distrusted,
        code=code | (NOT_UBIQUITOUS if distrusted else 0),
    )
    root = None
    if platforms is not None:
        root = chain[-1]
        leaf = chain[0]
        # a server that staples OCSP responses needs the issuer, even if that is the root
        if len(chain) > 1 and not (leaf.ocsp_urls and not leaf.is_ca and len(chain) == 2):
            chain = chain[:-1]
    status.rebundled = [link.signature for link in chain] != [link.signature for link in given]
    return Bundle(chain=chain, root=root, key=key, status=status)


def _expiring_text(positions: Sequence[int]) -> str:
    subject = "The expiring certs are" if len(positions) > 1 else "The expiring cert is"
    numbers = "".join(f" #{at + 1}" for at in positions)
    return f"The bundle is expiring within 30 days.{subject}{numbers} in the chain."


def _sha1_texts(chain: Sequence[Link], now: datetime) -> list[str]:
    """Return what browsers do with SHA-1 below the root; the strictest rule of each that applies."""

    def has_sha1(link: Link) -> bool:
        return ubiquity.hash_score([link]) == ubiquity.HASH_SCORES["SHA1"]

    texts = []
    leaf = chain[0]
    if any(map(has_sha1, chain[:-1])):
        if leaf.not_after > _2017:
            texts.append("Google Chrome shows the SSL connection is untrusted")
        elif leaf.not_after > _2016:
            texts.append("Google Chrome shows the SSL connection has minor problems")
        if leaf.not_after > _2017 and now > _2017:
            texts.append("Mozilla Firefox shows the SSL connection is untrusted")
            texts.append("Microsoft Windows Vista and later shows the SSL connection is untrusted")
        elif leaf.not_before > _2016 and has_sha1(leaf):
            texts.append("Mozilla Firefox shows the SSL connection is untrusted")
    return [f"{text} due to SHA-1 deprecation" for text in texts]


def _pem(link: Link) -> str:
    return certificate_to_pem(link.certificate).strip()


def _hostnames(link: Link) -> list[str]:
    common_name = link.name.common_name
    names_of = alternative_names(link.certificate).dns
    return list(dict.fromkeys([*([common_name] if common_name else []), *names_of]))


def _name(encoded: bytes) -> str:
    """Write a name as CFSSL does: `/Country=FR/CommonName=x`, without a type for those it does not know."""
    try:
        attributes = names.attributes(encoded, lenient=True)
    except DERError:
        return ""
    return "".join(f"/{_NAMES.get((oid.split('.') + [''] * 4)[3], '')}={text}" for oid, text in attributes)
