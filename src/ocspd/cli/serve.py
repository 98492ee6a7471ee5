"""The verb `serve`: CFSSL's API server.

A CA or responder that cannot be used at start is a WARNING and disables its endpoints, as in CFSSL; an
unusable setting (configuration, database configuration, TLS, port) ends the command with one line. SIGTERM
and SIGINT let requests in flight finish; SIGHUP reads certificates, keys and the signing configuration again,
and keeps the old ones if the new ones are not usable.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.app import build_authority
from ocspd.cli.bundle import bundler_config
from ocspd.cli.flags import boolean, duration, integer, string
from ocspd.cli.shared_flags import ALLOW_PRIVATE, ALLOW_RSA_1024, EMBED_CA, NO_AIA, RESPONDER_ID, admin_flags
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError

if TYPE_CHECKING:
    from ocspd.authority.access.policy import Policy
    from ocspd.cli.flags import Flags
    from ocspd.config import APIConfig
    from ocspd.signer.signer_files import SignerFiles

DELTA_CRL_URL = string(
    "delta-crl-url", "where clients find /crl/KEYID-delta.crl; complete CRLs name it (freshestCRL)"
)
CRL_MAX_AGE = duration(
    "crl-max-age",
    "how long caches may keep a CRL, at most until its nextUpdate",
    timedelta(hours=1),
    limits=limits.CRL_MAX_AGE,
)
_FILES = (
    "config",
    "ca",
    "ca-key",
    "ca-bundle",
    "int-bundle",
    "int-dir",
    "metadata",
    "responder",
    "responder-key",
    "tls-cert",
    "tls-key",
    "mutual-tls-ca",
)
"""Flags whose files a reload reads."""


def _serve(flags: Flags, arguments: list[str]) -> int:
    from ocspd.cli.loop import run_uvloop  # noqa: PLC0415  (not needed for help)

    no_more_arguments(arguments)
    run_uvloop(_main(flags))
    return 0


async def _main(flags: Flags) -> None:
    async with build_authority(_config(flags), SystemClock()) as service:
        await service.run(flags.string("address"), flags.integer("port"))


def _config(flags: Flags) -> APIConfig:
    # Not needed for help.
    from ocspd.authority.crls import CRLSettings  # noqa: PLC0415
    from ocspd.authority.tls import ServerTLS  # noqa: PLC0415
    from ocspd.cli.issue_input import authority_config  # noqa: PLC0415
    from ocspd.config import APIConfig  # noqa: PLC0415

    return APIConfig(
        authority=partial(authority_config, flags),
        ocsp=partial(_ocsp_signer, flags) if any(map(flags.string, ("responder", "responder-key"))) else None,
        db_config=flags.string("db-config"),
        disabled=tuple(flags.string("disable").split(",")),
        tls=ServerTLS(
            certificate_file=flags.string("tls-cert"),
            key_file=flags.string("tls-key"),
            client_ca_file=flags.string("mutual-tls-ca"),
            client_cn=flags.string("mutual-tls-cn"),
            min_version=flags.string("min-tls-version"),
        ),
        crls=CRLSettings(
            validity=flags.duration("expiry"),
            delta_url=flags.string("delta-crl-url"),
            max_age=flags.duration("crl-max-age"),
        ),
        admin=(flags.string("admin-address"), flags.integer("admin-port")),
        read=tuple(f"-{name}" for name in _FILES if flags.string(name)),
        bundler=bundler_config(flags, allow_private=flags.boolean(ALLOW_PRIVATE.name)),
        access=partial(_access, flags),
        rate_limit=flags.integer("rate-limit"),
        audit_log=flags.string("audit-log"),
        audit_key=flags.string("audit-key"),
        audit_rotate_mb=flags.integer("audit-rotate-mb"),
        files=partial(_digests, flags),
        workers=flags.integer("workers"),
    )


def _access(flags: Flags) -> Policy | None:
    """Read who may do what from -config; with -require-auth nobody may do anything without that."""
    from ocspd.authority.access.policy import Policy, parse_access  # noqa: PLC0415
    from ocspd.inputs import naming, read_file  # noqa: PLC0415
    from ocspd.pki.config_json import parse_config  # noqa: PLC0415

    policy = None
    if name := flags.string("config"):
        data = read_file(name)
        with naming(name):
            signing = parse_config(data)
            policy = parse_access(data, signing.auth_keys, signing.profiles)
    return Policy() if policy is None and flags.boolean("require-auth") else policy


def _digests(flags: Flags) -> dict[str, str]:
    """Return the SHA-256 of each file that a reload reads; "" for one that cannot be read."""
    import hashlib  # noqa: PLC0415  (not needed for help)

    from ocspd.inputs import read_key_material  # noqa: PLC0415

    found = {}
    for name in _FILES:
        if not flags.string(name) or name.endswith("-key"):
            continue
        try:
            found[name] = hashlib.sha256(read_key_material(flags.string(name))).hexdigest()
        except OCSPDError:
            found[name] = ""
    return found


def _ocsp_signer(flags: Flags) -> SignerFiles:
    from ocspd.cli.signers import signing_policy  # noqa: PLC0415
    from ocspd.pki.ocsp import SignerNames  # noqa: PLC0415
    from ocspd.pki.signing_policy import DEFAULT_HASHES  # noqa: PLC0415
    from ocspd.signer.signer_files import SignerFiles  # noqa: PLC0415

    for name in ("ca", "responder", "responder-key"):
        if not flags.string(name):
            raise ConfigError(f"no -{name} given")
    names = SignerNames(*map(flags.string, ("ca", "responder", "responder-key")))
    return SignerFiles(names, signing_policy(flags, DEFAULT_HASHES))


VERBS = (
    Verb(
        "serve",
        """ocspd serve -- run the HTTP server of CFSSL's API

Usage of serve:
        ocspd serve [-address address] [-port port] [-ca cert] [-ca-key key] [-config config] \\
                    [-db-config db-config] [-responder cert] [-responder-key key] [-disable endpoint,...] \\
                    [-tls-cert cert] [-tls-key key] [-mutual-tls-ca ca] [-mutual-tls-cn regex] \\
                    [-min-tls-version version] [-remote remote_host] [-tls-remote-ca ca] \\
                    [-mutual-tls-client-cert cert] [-mutual-tls-client-key key] \\
                    [-ca-bundle bundle] [-int-bundle bundle] [-int-dir dir] [-metadata file] \\
                    [-no-aia] [-allow-private] \\
                    [-audit-log file] [-audit-key key] [-audit-rotate-mb number] \\
                    [-require-auth] [-rate-limit number] \\
                    [-workers number]

Who may do what is in the member "access" of -config (docs/operations.md).

Signals: SIGTERM and SIGINT stop, SIGHUP reads certificates, keys and -config again.""",
        (
            "address",
            "port",
            "min-tls-version",
            "ca",
            "ca-key",
            "ca-bundle",
            "int-bundle",
            "int-dir",
            "metadata",
            "remote",
            "config",
            "responder",
            "responder-key",
            "interval",
            RESPONDER_ID,
            EMBED_CA,
            "tls-key",
            "tls-cert",
            "mutual-tls-ca",
            "mutual-tls-cn",
            "tls-remote-ca",
            "mutual-tls-client-cert",
            "mutual-tls-client-key",
            "db-config",
            "disable",
            "expiry",
            DELTA_CRL_URL,
            CRL_MAX_AGE,
            *admin_flags(0, "/metrics, /livez, /readyz and /healthz"),
            ALLOW_RSA_1024,
            NO_AIA,
            ALLOW_PRIVATE,
            string("audit-log", "file of the audit log; it is made if missing (see ocspd audit)"),
            string("audit-key", "Ed25519 key of its checkpoints; it is made if missing (default: LOG.key)"),
            integer(
                "audit-rotate-mb",
                "size in MiB at which the audit log is renamed (0: never)",
                256,
                limits=limits.AUDIT_ROTATE_MB,
            ),
            boolean(
                "require-auth",
                'demand authentication even without "access" in -config: only auth keys of profiles admit',
            ),
            integer(
                "rate-limit",
                "requests a second that one client may make on average (0: no limit)",
                limits=limits.RATE,
            ),
            integer(
                "workers",
                "processes that sign certificates (0: one for each usable CPU)",
                limits=limits.PROCESSES,
            ),
        ),
        _serve,
    ),
)
