"""The verb `ocspserve`: the OCSP responder, from a dump, an index directory or certdb."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.app import build_responder
from ocspd.cli.flags import duration, integer, string
from ocspd.cli.shared_flags import SIGNER_FLAGS, admin_flags
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.config import ResponderConfig
from ocspd.errors import OCSPDError
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


def _ocspserve(flags: Flags, arguments: list[str]) -> int:
    if arguments:
        raise OCSPDError(
            f"ocspserve takes no arguments, but got {shown(arguments[0])!r}: did a flag lose its dash?"
        )
    from ocspd.cli.loop import run_uvloop  # noqa: PLC0415  (not needed for help)

    return run_uvloop(_main(_config(flags)))


async def _main(config: ResponderConfig) -> int:
    python = (sys.executable, "-m")
    async with build_responder(
        config,
        SystemClock(),
        worker=(*python, "ocspd.cli.worker"),
        examiner=(*python, "ocspd.cli.examiner"),
    ) as supervisor:
        return await supervisor.run()


def _config(flags: Flags) -> ResponderConfig:
    config = ResponderConfig(
        address=flags.string("address"),
        port=flags.integer("port"),
        path=flags.string("path"),
        responses=flags.string("responses"),
        index=flags.string("index"),
        index_cache=flags.string("index-cache"),
        index_poll=flags.duration("index-poll"),
        db_config=flags.string("db-config"),
        max_age=flags.duration("max-age"),
        workers=flags.integer("workers"),
        max_expired=flags.integer("max-expired"),
        admin_address=flags.string("admin-address"),
        admin_port=flags.integer("admin-port"),
        admin_wanted=flags.was_set("admin-port") or flags.was_set("admin-address"),
        drain_delay=flags.duration("drain-delay"),
        drain_timeout=flags.duration("drain-timeout"),
        loglevel=flags.integer("loglevel"),
    )
    signs = any(flags.strings(name) for name in ("ca", "responder", "responder-key"))
    if not signs or config.source != "db_config":
        return config
    from ocspd.cli.signers import issuer_configs  # noqa: PLC0415  (keys are for this source only)

    return replace(config, issuers=issuer_configs(flags))


VERBS = (
    Verb(
        "ocspserve",
        """ocspd ocspserve -- set up an HTTP server that handles OCSP requests from a file of OCSP
responses, an index directory, or the certificate database

Usage of ocspserve:
        ocspd ocspserve [-address address] [-port port] [-responses file] [-index directory|URL] \\
                        [-db-config db-config [-ca cert -responder cert -responder-key key]]

Changes of the file, the index and the table are picked up. SIGHUP checks at once, SIGTERM drains.
With -db-config, giving -ca, -responder and -responder-key signs responses as the database changes.""",
        (
            "address",
            "port",
            "path",
            "responses",
            string(
                "index",
                "index directory to serve, or URL to pull it from: s3://, gs://, az://, https:// or file://",
            ),
            string(
                "index-cache", "directory to pull into, kept for the next start (default: a temporary one)"
            ),
            duration(
                "index-poll",
                "how often to check the URL",
                timedelta(milliseconds=500),
                limits=limits.INDEX_POLL,
            ),
            "db-config",
            *SIGNER_FLAGS,
            duration(
                "max-age",
                "how long HTTP caches may keep a response, and so may serve good after a revocation "
                "(0s: until the response is due for renewal)",
                timedelta(hours=1),
                limits=limits.MAX_AGE,
            ),
            integer("workers", "worker processes (0: one for each usable CPU)", limits=limits.PROCESSES),
            integer(
                "max-expired",
                "/readyz fails when more than this percentage of an issuer's responses have expired",
                50,
                limits=limits.PERCENTAGE,
            ),
            *admin_flags(9402, "/metrics, /livez, /readyz and /healthz"),
            duration(
                "drain-delay",
                "after SIGTERM, keep accepting requests this long while /readyz fails",
                timedelta(milliseconds=500),
                limits=limits.DRAIN,
            ),
            duration(
                "drain-timeout",
                "time limit for requests in flight after that",
                timedelta(seconds=10),
                limits=limits.DRAIN,
            ),
        ),
        _ocspserve,
    ),
)
