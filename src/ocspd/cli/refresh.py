"""The verb `refresh`: the signer daemon."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ocspd.app import build_signer
from ocspd.cli.flags import boolean, string, strings
from ocspd.cli.index_import import SOURCE_FLAGS, sources_of
from ocspd.cli.progress import PassProgress
from ocspd.cli.shared_flags import PROCESSES, SIGNER_FLAGS, admin_flags
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.config import SignerConfig, load_signer_config
from ocspd.errors import ConfigError, OCSPDError
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


def _refresh(flags: Flags, arguments: list[str]) -> int:
    files = [*arguments, *filter(None, (flags.string("config"),))]
    if len(files) > 1:
        raise OCSPDError(f"refresh takes one configuration file, but also got {shown(files[1])!r}")
    for name in _CONFIGURED if files else ():
        if flags.was_set(name):
            raise ConfigError(
                f"-{name} cannot be combined with a configuration file; set it in {shown(files[0])}"
            )
    from ocspd.cli.loop import run_uvloop  # noqa: PLC0415  (not needed for help)

    config = load_signer_config(files[0]) if files else _from_flags(flags)
    return run_uvloop(_main(config, flags))


def _from_flags(flags: Flags) -> SignerConfig:
    """Make the configuration given by CFSSL's flags."""
    sources = sources_of(flags, len(flags.strings("ca")))
    for name, given, what in (
        ("db-config", flags.string("db-config") or sources, "DB config file"),
        ("index", flags.string("index"), "index directory"),
    ):
        if not given:
            raise ConfigError(
                f"need {what} (provide with -{name}, or give a configuration file: ocspd refresh ocspd.toml)"
            )
    from ocspd.cli.signers import issuer_configs  # noqa: PLC0415  (not needed for help)

    issuers = issuer_configs(flags)
    config = SignerConfig(
        crl=sources.crls,
        allow_expired=sources.allow_expired,
        db_config=flags.string("db-config"),
        index=flags.string("index"),
        processes=flags.integer("processes"),
        table=flags.boolean("table"),
        publish=flags.strings("publish"),
        admin_address=flags.string("admin-address"),
        admin_port=flags.integer("admin-port"),
        issuer=tuple(
            replace(issuer, index_txt=files.index_txt, serials=files.serials)
            for issuer, files in zip(issuers, sources.issuers, strict=True)
        ),
    )
    config.check_source("refresh")
    return config


async def _main(config: SignerConfig, flags: Flags) -> int:
    clock = SystemClock()
    once = flags.boolean("once")
    async with build_signer(
        config, clock, partial(PassProgress, "signing OCSP responses", clock), once=once
    ) as signer:
        if flags.boolean("resign"):
            signer.daemon.sign_again()
        return await signer.run(once=once)


_FLAGS = (
    "db-config",
    *SOURCE_FLAGS,
    *SIGNER_FLAGS,
    string("index", "index directory to keep up to date"),
    strings("publish", "URL to copy the index to: s3://, gs://, az:// or file://; may be repeated"),
    PROCESSES,
    boolean("table", "also write the table ocsp_responses, as ocsprefresh does"),
    *admin_flags(9403, "/metrics, /livez and /readyz"),
)
_CONFIGURED = tuple(flag if isinstance(flag, str) else flag.name for flag in _FLAGS)
"""The flags a configuration file replaces, so that there are never two values for one setting."""

VERBS = (
    Verb(
        "refresh",
        """ocspd refresh -- keep an index of OCSP responses up to date with the certificate database

Usage of refresh:
        ocspd refresh ocspd.toml
        ocspd refresh -db-config db-config -ca cert -responder cert -responder-key key -index directory
        ocspd refresh [-crl file]... [-index-txt file] [-serials file] -ca cert -responder cert
                      -responder-key key -index directory

Runs until SIGTERM, or with -once until the first pass is done. Signs each change of the database at once.
Instead of a database it can follow CRLs, an index.txt of openssl ca, and lists of issued serials.
Only serials in -index-txt or -serials can be good.

Certificates and keys replaced on disk are reloaded automatically, after SIGHUP at once.
Responses signed with the replaced certificate stay until they are due for renewal.
-resign, or SIGUSR1 while it runs, signs everything again now, as after the compromise of a responder key.
A configuration file replaces all flags except -once, -resign and -loglevel.""",
        (
            string("config", "configuration file (TOML), the same as giving it as the argument"),
            *_FLAGS,
            boolean("once", "exit when every certificate has a fresh response"),
            boolean("resign", "sign a new response for every certificate now"),
        ),
        _refresh,
        cfssl=False,
    ),
)
