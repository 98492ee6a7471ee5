"""The verb `ocspserve`: the OCSP responder, from a dump, an index directory or certdb."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd import limits
from ocspd.cli.flags import duration, integer, string
from ocspd.cli.loop import run_uvloop
from ocspd.cli.shared_flags import SIGNER_FLAGS, admin_flags
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError
from ocspd.index.directory import IndexDirectory
from ocspd.logs import logger
from ocspd.ops import listeners
from ocspd.ops.server import HTTPServer
from ocspd.ops.systemd import Notifier, passed_sockets
from ocspd.responder import descriptors
from ocspd.responder.admin import Admin
from ocspd.responder.control import WorkerSettings
from ocspd.responder.examining import Examining
from ocspd.responder.pool import WorkerPool
from ocspd.responder.responses import PublishedIndex, ResponsesFile
from ocspd.responder.served_index import ServedIndex
from ocspd.responder.supervisor import Source, Supervisor
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock


def _ocspserve(flags: Flags, arguments: list[str]) -> int:
    if arguments:
        raise OCSPDError(
            f"ocspserve takes no arguments, but got {shown(arguments[0])!r}: did a flag lose its dash?"
        )
    return run_uvloop(_main(flags))


async def _main(flags: Flags) -> int:
    clock = SystemClock()
    count = flags.integer("workers") or len(os.sched_getaffinity(0))
    max_expired = flags.integer("max-expired")
    limit = descriptors.raise_limit()
    notifier = Notifier.from_environment()
    from_systemd = passed_sockets()
    async with AsyncExitStack() as stack:
        examining = Examining((sys.executable, "-m", "ocspd.cli.examiner"))
        stack.push_async_callback(examining.close)
        source = await _source(flags, clock, examining, stack)
        sockets = (
            listeners.passed(from_systemd)
            if from_systemd
            else listeners.bind(flags.string("address"), flags.integer("port"), count)
        )
        stack.callback(sockets.close)
        logger.info("Registering OCSP responder handler")
        index = ServedIndex(source.directory, examining, clock)
        pool = WorkerPool(
            command=(sys.executable, "-m", "ocspd.cli.worker"),
            settings=WorkerSettings(
                path=flags.string("path"),
                loglevel=flags.integer("loglevel"),
                max_age_cap_s=int(flags.duration("max-age").total_seconds()),
                max_connections=descriptors.worker_connections(
                    limit, len(sockets.sockets), WorkerSettings().max_connections
                ),
            ),
            listeners=sockets,
            count=count,
            diagnose=index.damage,
        )
        stack.callback(pool.close)
        supervisor = Supervisor(
            source=source,
            index=index,
            pool=pool,
            clock=clock,
            max_expired=max_expired / 100,
            drain_delay_s=flags.duration("drain-delay").total_seconds(),
            drain_timeout_s=flags.duration("drain-timeout").total_seconds(),
            notifier=notifier,
        )
        admin_connections = descriptors.admin_connections(limit, count)
        await _start_admin(flags, supervisor, admin_connections, stack)
        return await supervisor.run()


async def _source(flags: Flags, clock: Clock, examining: Examining, stack: AsyncExitStack) -> Source:
    """Choose where responses come from: -responses before -index before -db-config, as in CFSSL."""
    if flags.string("responses"):
        return ResponsesFile(flags.string("responses"), _private_directory(stack), clock)
    if "://" in flags.string("index"):
        return _pulled(flags, clock, examining, stack)
    if flags.string("index"):
        return PublishedIndex(IndexDirectory(flags.string("index")))
    if flags.string("db-config"):
        return await _table(flags, clock, stack)
    raise ConfigError(
        "no response file or db-config provided, please set the one of these using either -responses or "
        "-db-config flags (or -index for an index directory)"
    )


def _pulled(flags: Flags, clock: Clock, examining: Examining, stack: AsyncExitStack) -> Source:
    # The client of object stores is loaded only where there is one.
    from ocspd.index.remote import RemoteIndex  # noqa: PLC0415
    from ocspd.responder.pulling import PulledIndex  # noqa: PLC0415

    remote = RemoteIndex(flags.string("index"), clock, check=examining.check)
    given = flags.string("index-cache")
    directory = IndexDirectory(given) if given else _private_directory(stack)
    source = PulledIndex(remote, directory, clock, poll_s=flags.duration("index-poll").total_seconds())
    stack.callback(source.close)
    return source


async def _table(flags: Flags, clock: Clock, stack: AsyncExitStack) -> Source:
    # Only this source needs a database and, with signers, keys: the others never load either.
    from ocspd.certdb import open_certdb, parse_db_config  # noqa: PLC0415
    from ocspd.cli.io import read_file  # noqa: PLC0415
    from ocspd.cli.signers import follow_files, issuer_configs  # noqa: PLC0415
    from ocspd.responder.table import GRACE_S, TableSource  # noqa: PLC0415
    from ocspd.signer.serving import ServingSigner  # noqa: PLC0415

    signers = None
    if any(flags.strings(name) for name in ("ca", "responder", "responder-key")):
        signers = follow_files(issuer_configs(flags), clock)
    path = flags.string("db-config")
    try:
        config = parse_db_config(read_file(path))
    except OCSPDError as err:
        raise ConfigError(f"unable to read configuration file {path}: {err}") from err
    db = await stack.enter_async_context(await open_certdb(config, clock))
    directory = _private_directory(stack)
    signer = None if signers is None else ServingSigner(db, signers, directory, clock, grace_s=GRACE_S)
    return TableSource(db=db, signer=signer, directory=directory, clock=clock)


def _private_directory(stack: AsyncExitStack) -> IndexDirectory:
    """Create an index directory that is removed with this process."""
    try:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-", ignore_cleanup_errors=True))
    except OSError as err:
        raise OCSPDError(
            f"cannot create a temporary directory: {err.strerror or err}; "
            "set TMPDIR to a file system with room for the index"
        ) from err
    return IndexDirectory(Path(path))


async def _start_admin(
    flags: Flags, supervisor: Supervisor, max_connections: int, stack: AsyncExitStack
) -> None:
    """Start the admin listener; if only the default port is in use, serve without it."""
    port = flags.integer("admin-port")
    if not port:
        return
    server = HTTPServer(
        Admin(supervisor), drain_s=1, port_flag="-admin-port", max_connections=max_connections
    )
    try:
        await server.start(flags.string("admin-address"), port)
    except OCSPDError as err:
        if flags.was_set("admin-port") or flags.was_set("admin-address"):
            raise OCSPDError(f"admin listener: {err}") from err
        logger.warning("no admin listener: %s", err)
        return
    stack.push_async_callback(server.stop)
    logger.info("admin listener on %s:%d", flags.string("admin-address"), server.port)


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
