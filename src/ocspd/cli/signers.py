"""The OCSP signers given by flags (`shared_flags`)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.app import FileSigners
from ocspd.cli.io import read_file, read_key_material
from ocspd.cli.issue_input import naming, parse_key, read_certificate, read_key
from ocspd.config import IssuerConfig
from ocspd.errors import ConfigError
from ocspd.pki.certid import check_hash_name
from ocspd.pki.certs import load_certificate
from ocspd.pki.ocsp import OCSPSigner, SignerNames
from ocspd.pki.signing_policy import SigningPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock

_THIS_UPDATE_STEP = timedelta(minutes=1)  # an answer to a change is not to look an hour old


def certid_hashes(flags: Flags) -> tuple[str, ...]:
    """Read -certid-hash: names separated by commas. ConfigError for an unknown one."""
    names = tuple(name.strip().lower() for name in flags.string("certid-hash").split(",") if name.strip())
    for name in names:
        check_hash_name(name)
    return names


def open_signer(  # noqa: PLR0913  (three places, and what the flags do not say)
    flags: Flags, clock: Clock, hashes: Sequence[str] = (), *, issuer: str, responder: str, key: str
) -> OCSPSigner:
    """Make the signer of one issuer from the names of its certificate and key files.

    Takes -interval, -responder-id, -embed-ca and, without `hashes`, -certid-hash from the flags. Every
    failure names its file.
    """
    responder_data = read_file(responder)
    with naming(responder):
        responder_certificate = load_certificate(responder_data)
    signer = OCSPSigner(
        read_certificate(issuer),
        responder_certificate,
        parse_key(key, read_file(key)),
        SigningPolicy(
            validity=flags.duration("interval"),
            certid_hashes=tuple(hashes) or certid_hashes(flags),
            responder_id=flags.string("responder-id"),
            embed_ca=flags.boolean("embed-ca"),
        ),
        clock,
        names=SignerNames(issuer, responder, key),
    )
    signer.log_warnings()
    return signer


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

    Raises the errors of `signer_files` and `open_signer`.
    """
    return [
        open_signer(flags, clock, hashes, issuer=issuer, responder=responder, key=key)
        for issuer, responder, key in signer_files(flags)
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


def follow_files(issuers: Sequence[IssuerConfig], clock: Clock) -> FileSigners:
    """Return the signers of a long-running process: made again whenever a file is replaced."""
    return FileSigners(
        issuers, clock, read=read_key_material, read_key=read_key, this_update_step=_THIS_UPDATE_STEP
    )
