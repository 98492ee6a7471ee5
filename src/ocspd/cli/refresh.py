"""The verb `refresh`: the signer daemon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd.certdb import open_certdb
from ocspd.certdb.dbconf import parse_db_config
from ocspd.cli.flags import boolean, string, strings
from ocspd.cli.index_import import SHOWN, SOURCE_FLAGS, report_import, sources_of
from ocspd.cli.io import read_file
from ocspd.cli.issue_input import naming, read_certificate
from ocspd.cli.loop import run_uvloop
from ocspd.cli.progress import PassProgress
from ocspd.cli.shared_flags import PROCESSES, SIGNER_FLAGS, admin_flags
from ocspd.cli.signers import follow_files, issuer_configs
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.config import SignerConfig, load_signer_config
from ocspd.errors import CodedError, ConfigError, OCSPDError, SetupError
from ocspd.index.directory import IndexDirectory
from ocspd.logs import logger
from ocspd.ops.systemd import Notifier
from ocspd.pki.certs import ski_hex
from ocspd.shown import shown
from ocspd.signer.generations import Generations
from ocspd.signer.importing import EXPIRED, FileStatus, IssuerFiles, Sources
from ocspd.signer.priority import weigh_session_least
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings, RefreshSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from ocspd.certdb.base import CertDB
    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock
    from ocspd.pki.certs import Certificate
    from ocspd.signer.publishing import Publisher


def _refresh(flags: Flags, arguments: list[str]) -> int:
    files = [*arguments, *filter(None, (flags.string("config"),))]
    if len(files) > 1:
        raise OCSPDError(f"refresh takes one configuration file, but also got {shown(files[1])!r}")
    for name in _CONFIGURED if files else ():
        if flags.was_set(name):
            raise ConfigError(
                f"-{name} cannot be combined with a configuration file; set it in {shown(files[0])}"
            )
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
    notifier = Notifier.from_environment()
    directory = IndexDirectory(config.index)
    async with AsyncExitStack() as stack:
        stack.enter_context(directory.lock())
        stack.callback(directory.discard_unfinished)
        await stack.enter_async_context(_working(_go_behind_requests()))
        db: RefreshSource
        total: int | None = None
        if config.from_files:
            db = await _open_files(config, clock)
        else:
            config_data = read_file(config.db_config)
            with naming(config.db_config):
                db_config = parse_db_config(config_data)
            db = database = await open_certdb(db_config, clock)
            await stack.enter_async_context(database)
            total = await _first_estimate(database, wait=not flags.boolean("once"))
        generations = Generations(directory, clock)
        stack.callback(generations.close)
        publisher = _publisher(config.publish, generations, clock)
        if publisher is not None:
            generations.published = publisher.offer
        progress = stack.enter_context(PassProgress("signing OCSP responses", clock, total))
        daemon = SignerDaemon(
            db=db,
            source=follow_files(config.issuer, clock),
            generations=generations,
            clock=clock,
            settings=RefreshSettings(
                processes=config.processes,
                pass_interval_s=config.pass_interval.total_seconds(),
                table=config.table,
            ),
            on_progress=progress.update,
            on_pass=progress.finish,
        )
        if publisher is not None:
            daemon.stats.publishing = publisher.stats
            if not flags.boolean("once"):  # which publishes after its pass only
                publisher.takes_over = daemon.ready
        if config.admin_port:
            # 70 ms that a pass without an admin listener does not need
            from ocspd.ops.server import HTTPServer  # noqa: PLC0415
            from ocspd.signer.admin import SignerAdmin  # noqa: PLC0415

            server = HTTPServer(SignerAdmin(daemon, generations), drain_s=1, port_flag="-admin-port")
            await server.start(config.admin_address, config.admin_port)
            stack.push_async_callback(server.stop)
            logger.info("admin listener on %s:%d", config.admin_address, server.port)
        once = flags.boolean("once")
        if flags.boolean("resign"):
            daemon.sign_again()
        if publisher is not None and not once:
            await stack.enter_async_context(_working(publisher.run()))
            if (manifest := directory.manifest()) is not None:
                publisher.offer(manifest)  # what the last run may not have got rid of
        code = await _run(
            daemon, notifier, once=once, followed="the files" if config.from_files else "the database"
        )
        if publisher is not None and once and (manifest := directory.manifest()) is not None:
            await publisher.finish(manifest)
        return code


async def _first_estimate(database: CertDB, *, wait: bool) -> int | None:
    """Estimate how many certificates there are; None if the database is down.

    What a person must do first (create tables, correct a password) is an error at once; for a database that
    is down a daemon waits, with `wait`, as it does later.
    """
    try:
        await database.check()
        return await database.estimate_unexpired()
    except CodedError as err:
        if not wait or isinstance(err, SetupError):
            raise
        logger.warning("%s; waiting for it", err)
        return None


async def _open_files(config: SignerConfig, clock: Clock) -> FileStatus:
    """Read the files once, so that unusable ones are reported before the daemon starts."""

    def issuers() -> list[Certificate]:
        return [read_certificate(issuer.ca) for issuer in config.issuer]

    for issuer, certificate in zip(config.issuer, issuers(), strict=True):
        if not ski_hex(certificate):
            raise ConfigError(
                f"{issuer.ca}: has no subject key identifier, which refresh needs with files: use index build"
            )
    identifiers = [ski_hex(certificate) for certificate in issuers()]
    for issuer, identifier in zip(config.issuer, identifiers, strict=True):
        if identifiers.count(identifier) > 1:
            raise ConfigError(
                f"{issuer.ca}: has the same key as another given CA, and files do not say which of the two "
                "issued a certificate: run one refresh for each, or use index build"
            )
    named: list[tuple[str, str]] = []

    def on_skip(where: str, cause: str) -> None:
        if cause != EXPIRED and len(named) < SHOWN:
            named.append((where, cause))

    status = FileStatus(
        Sources(
            crls=config.crl,
            issuers=tuple(
                IssuerFiles(index_txt=each.index_txt, serials=each.serials) for each in config.issuer
            ),
            allow_expired=config.allow_expired,
        ),
        issuers,
        clock=clock,
        folder=Path(config.index),
        on_skip=on_skip,
    )
    await status.check()
    report_import(status.report, named)
    return status


def _publisher(urls: Sequence[str], generations: Generations, clock: Clock) -> Publisher | None:
    if not urls:
        return None
    # The client of object stores is loaded only where there is one.
    from ocspd.index.remote import RemoteIndex  # noqa: PLC0415
    from ocspd.signer.publishing import Publisher  # noqa: PLC0415

    remotes = [RemoteIndex(url, clock) for url in urls]
    for remote in remotes:
        remote.check_writable()
    return Publisher(
        remotes,
        generations.directory,
        clock,
        renumber=lambda above: generations.publish(above=above),
    )


@contextlib.asynccontextmanager
async def _working(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a task during the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _run(daemon: SignerDaemon, notifier: Notifier, *, once: bool, followed: str) -> int:
    """Run until a signal (or, with -once, until the first pass is published)."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, _check_now, daemon)
    loop.add_signal_handler(signal.SIGUSR1, daemon.sign_again)
    work = asyncio.create_task(daemon.run())
    ready = asyncio.create_task(daemon.ready.wait())
    stop = asyncio.create_task(stopped.wait())
    watchdog = asyncio.create_task(_watchdog(notifier))
    try:
        await asyncio.wait([work, ready, stop], return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not stop.done():
            stats = daemon.stats
            logger.info(
                "signed %d OCSP responses; %d certificates have responses%s",
                stats.responses,
                stats.pass_certificates - stats.foreign - stats.skipped.total(),
                "" if once else f"; following {followed}",
            )
            notifier.ready(f"following {followed}")
            if not once:
                await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        notifier.send("STOPPING=1")
        return 0
    finally:
        for task in (work, ready, stop, watchdog):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _check_now(daemon: SignerDaemon) -> None:
    logger.info("SIGHUP: checking certificates and keys")
    daemon.check_now()


async def _go_behind_requests() -> None:
    while not weigh_session_least():  # noqa: ASYNC110  (the kernel tells nobody when it is allowed again)
        await asyncio.sleep(0.1)


async def _watchdog(notifier: Notifier) -> None:
    while notifier.watchdog_s:
        notifier.send("WATCHDOG=1")
        await asyncio.sleep(notifier.watchdog_s)


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
