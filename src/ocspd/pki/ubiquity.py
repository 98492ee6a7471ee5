"""Which of several chains is best: CFSSL's scores, and the platforms they are scored for.

`optimal` is the shortest chain, of those the one that is valid longest, of those the one with the strongest
algorithms. `ubiquitous` asks before that how many platforms, by weight, trust the root and support the
algorithms of the chain, and prefers chains that only have SHA-2, then shorter ones, and so on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ocspd.pki.chain_link import Link

    Chain = Sequence[Link]
    """From the certificate to the root."""

HASH_SCORES = {"SHA1": 100, "SHA2": 70}
"""What a platform supports at most, by the value of `hash_algo`; a chain scores as its rarest hash."""
KEY_SCORES = {"RSA": 100, "ECDSA256": 70, "ECDSA384": 70, "ECDSA521": 30}
"""The same for `key_algo`."""

_SIGNATURES = {
    "1.2.840.113549.1.1.2": ("MD2WithRSA", "MD2"),
    "1.2.840.113549.1.1.4": ("MD5WithRSA", "MD5"),
    "1.2.840.113549.1.1.5": ("SHA1WithRSA", "SHA1"),
    "1.3.14.3.2.29": ("SHA1WithRSA", "SHA1"),
    "1.2.840.113549.1.1.11": ("SHA256WithRSA", "SHA2"),
    "1.2.840.113549.1.1.12": ("SHA384WithRSA", "SHA2"),
    "1.2.840.113549.1.1.13": ("SHA512WithRSA", "SHA2"),
    "1.2.840.10040.4.3": ("DSAWithSHA1", "SHA1"),
    "2.16.840.1.101.3.4.3.2": ("DSAWithSHA256", "SHA2"),
    "1.2.840.10045.4.1": ("ECDSAWithSHA1", "SHA1"),
    "1.2.840.10045.4.3.2": ("ECDSAWithSHA256", "SHA2"),
    "1.2.840.10045.4.3.3": ("ECDSAWithSHA384", "SHA2"),
    "1.2.840.10045.4.3.4": ("ECDSAWithSHA512", "SHA2"),
    "1.3.101.112": ("Ed25519", ""),
}
_CURVES = {"secp256r1": "ECDSA256", "secp384r1": "ECDSA384", "secp521r1": "ECDSA521"}
_STRENGTHS = {"ECDSA256": 100, "ECDSA384": 120, "ECDSA521": 140}
_RSA_STRENGTHS = {4096: 70, 3072: 50, 2048: 30}
_LONGEST_MONTHS = ((datetime(2015, 4, 1, tzinfo=UTC), 39), (datetime(2012, 7, 1, tzinfo=UTC), 60))
"""How long a certificate issued from a date on may be valid (Baseline Requirements of 2015)."""


def signature_name(link: Link) -> str:
    """Return CFSSL's name of the algorithm a certificate is signed with."""
    return _SIGNATURES.get(link.algorithm, ("Unknown Signature", ""))[0]


def key_description(key: object) -> tuple[str, int]:
    """Return CFSSL's `key_type` and `key_size` of a public key."""
    match key:
        case ec.EllipticCurvePublicKey():
            return f"{key.curve.key_size}-bit ECDSA", key.curve.key_size
        case rsa.RSAPublicKey():
            return f"{key.key_size}-bit RSA", key.key_size
        case dsa.DSAPublicKey():
            return "DSA", 0
        case ed25519.Ed25519PublicKey():
            return "Ed25519", 32
        case _ if level := re.match(r"MLDSA(44|65|87)", type(key).__name__):
            return f"ML-DSA-{level[1]}", 0
        case _:
            return "Unknown", 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A browser or operating system: what it supports and which roots it trusts."""

    name: str
    weight: int
    hash_score: int
    key_score: int
    keys: frozenset[str]
    """Digests (`key_digest`) of the roots; a platform without any has no store and trusts every root."""

    def trusts(self, root: Link) -> bool:
        """Return whether a root is in its store."""
        return not self.keys or key_digest(root) in self.keys


def key_digest(link: Link) -> str:
    """Return what identifies a root in a platform's store: a digest of its public key."""
    return hashlib.sha256(link.key_info).hexdigest()


def untrusting(platforms: Sequence[Platform], root: Link) -> list[str]:
    """Return the names of the platforms that do not trust a root."""
    return [platform.name for platform in platforms if not platform.trusts(root)]


def optimal(chains: Sequence[Chain]) -> Chain:
    """Return the best chain by length, time and strength; the first one where several are equal."""
    for rank in (lambda chain: -len(chain), expiry, _strength):
        chains = _highest(chains, rank)
    return chains[0]


def ubiquitous(chains: Sequence[Chain], platforms: Sequence[Platform]) -> Chain:
    """Return the chain that most platforms accept; what is equal is ranked by `optimal`."""
    for rank in (
        lambda chain: _coverage(chain, platforms),
        lambda chain: all(_hash(link) == "SHA2" for link in chain[:-1]),
        lambda chain: -len(chain),
        hash_score,
        key_score,
        _lifetimes,
    ):
        chains = _highest(chains, rank)
    return optimal(chains)


def expiry(chain: Chain) -> datetime:
    """Return when the first certificate of a chain expires."""
    return min(link.not_after for link in chain)


def hash_score(chain: Chain) -> int:
    """Return the score of the rarest hash in a chain; 0 for one nobody should use, or an unknown one."""
    return min(HASH_SCORES.get(_hash(link), 0) for link in chain)


def key_score(chain: Chain) -> int:
    """Return the score of the rarest kind of key in a chain."""
    return min(_key_score(link) for link in chain)


def _highest(chains: Sequence[Chain], rank: Callable[[Chain], object]) -> list[Chain]:
    """Return the chains with the highest rank, in their order."""
    ranks: list[object] = [rank(chain) for chain in chains]
    best = max(ranks)  # type: ignore[type-var]  # each rank is of one ordered type
    return [chain for chain, found in zip(chains, ranks, strict=True) if found == best]


def _hash(link: Link) -> str:
    return _SIGNATURES.get(link.algorithm, ("", ""))[1]


def _key_kind(link: Link) -> str:
    match link.public_key:
        case ec.EllipticCurvePublicKey() as key:
            return _CURVES.get(key.curve.name, "")
        case rsa.RSAPublicKey() as key:
            return "RSA" if key.key_size >= 1024 else ""
        case dsa.DSAPublicKey():
            return "RSA"  # as widely supported
        case _:
            return ""


def _key_score(link: Link) -> int:
    return KEY_SCORES.get(_key_kind(link), 0)


def _coverage(chain: Chain, platforms: Sequence[Platform]) -> int:
    return sum(
        platform.weight
        for platform in platforms
        if platform.trusts(chain[-1])
        and platform.hash_score <= hash_score(chain)
        and platform.key_score <= key_score(chain)
    )


def _strength(chain: Chain) -> int:
    """Return the sum of the average strengths of hashes and of keys."""
    hashes = sum({"SHA1": 10, "SHA2": 100}.get(_hash(link), 0) for link in chain) / len(chain)
    keys = sum(_key_strength(link) for link in chain) / len(chain)
    return int(hashes) + int(keys)


def _key_strength(link: Link) -> int:
    match link.public_key:
        case ec.EllipticCurvePublicKey():
            return _STRENGTHS.get(_key_kind(link), 100)
        case rsa.RSAPublicKey() as key:
            return _RSA_STRENGTHS.get(key.key_size, 0)
        case _:
            return 0


def _lifetimes(chain: Chain) -> list[tuple[bool, datetime]]:
    """Return, from the root on, whether each certificate's lifetime is within the rules, and its end.

    The lists are compared as far as both reach; those that get here are equally long.
    """
    return [(_has_usual_lifetime(link), link.not_after) for link in reversed(chain)]


def _has_usual_lifetime(link: Link) -> bool:
    begin, end = link.not_before, link.not_after
    months = (end.year - begin.year) * 12 + end.month - begin.month + (end.day > begin.day)
    longest = next((months for since, months in _LONGEST_MONTHS if begin >= since), 120)
    return months <= longest
