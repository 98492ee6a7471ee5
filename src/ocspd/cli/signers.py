"""The OCSP signers given by flags (`shared_flags`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.config import IssuerConfig
from ocspd.errors import ConfigError
from ocspd.inputs import read_file
from ocspd.pki.certid import check_hash_name
from ocspd.pki.ocsp import SignerNames
from ocspd.pki.signing_policy import SigningPolicy
from ocspd.signer.signer_files import SignerFiles, open_signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner


def certid_hashes(flags: Flags) -> tuple[str, ...]:
    """Read -certid-hash: names separated by commas. ConfigError for an unknown one."""
    names = tuple(name.strip().lower() for name in flags.string("certid-hash").split(",") if name.strip())
    for name in names:
        check_hash_name(name)
    return names


def signing_policy(flags: Flags, hashes: Sequence[str]) -> SigningPolicy:
    """Return how -interval, -responder-id and -embed-ca want responses with these CertID hashes."""
    return SigningPolicy(
        validity=flags.duration("interval"),
        certid_hashes=tuple(hashes),
        responder_id=flags.string("responder-id"),
        embed_ca=flags.boolean("embed-ca"),
    )


def signer_files(flags: Flags) -> list[tuple[str, str, str]]:
    """Return -ca, -responder and -responder-key of each issuer.

    Also for verbs that declare the three as plain flags, with one issuer. ConfigError when one is missing
    or their counts differ.
    """
    issuers, responders, keys = (flags.strings(name) for name in ("ca", "responder", "responder-key"))
    for name, given, what in (
        ("responder", responders, "responder certificate"),
        ("responder-key", keys, "responder key"),
        ("ca", issuers, "CA certificate"),
    ):
        if not any(given):
            raise ConfigError(f"need {what} (provide with -{name})")
    if not len(issuers) == len(responders) == len(keys):
        raise ConfigError(
            f"got {len(issuers)} -ca, {len(responders)} -responder, {len(keys)} -responder-key: "
            "give each issuer one of each, in the same order"
        )
    return list(zip(issuers, responders, keys, strict=True))


def open_signers(flags: Flags, clock: Clock, hashes: Sequence[str] = ()) -> list[OCSPSigner]:
    """Make one signer for each -ca, with the -responder and -responder-key at the same position.

    `hashes` take the place of -certid-hash. Every failure names its file or flag.
    """
    policy = signing_policy(flags, hashes or certid_hashes(flags))
    return [
        open_signer(SignerFiles(SignerNames(*names), policy), clock, read_file)
        for names in signer_files(flags)
    ]


def issuer_configs(flags: Flags) -> tuple[IssuerConfig, ...]:
    """Return the settings of SIGNER_FLAGS for each issuer. Raises the errors of `signer_files`."""
    return tuple(
        IssuerConfig(
            ca=ca,
            responder=responder,
            responder_key=key,
            validity=flags.duration("interval"),
            certid_hashes=certid_hashes(flags),
            responder_id=flags.string("responder-id"),
            embed_ca=flags.boolean("embed-ca"),
        )
        for ca, responder, key in signer_files(flags)
    )
