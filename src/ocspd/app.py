"""Assembly: from configurations to objects that work. Each function reads as the order in which they nest.

Nothing is decided here. What only some configurations need (database drivers, the client of object stores,
the web server) is imported where it is put in: the parts of one role are never loaded for another.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.errors import Code, ConfigError, OCSPDError
from ocspd.inputs import naming, read_certificate, read_file, read_key, unreadable_as
from ocspd.logs import logger
from ocspd.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ocspd.authority.audit.ledger import Ledger
    from ocspd.authority.audit.log import AuditLog
    from ocspd.authority.bundling import Bundler
    from ocspd.authority.crls import CRLPublisher
    from ocspd.authority.issuing import Shared
    from ocspd.authority.multiroot import Root
    from ocspd.authority.multiroot_config import RootFiles
    from ocspd.authority.multiroot_service import MultiRootService
    from ocspd.authority.service import AuthorityService
    from ocspd.authority.signers import PolicySigner
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.config import (
        APIConfig,
        AuthorityConfig,
        BundlerConfig,
        IssuerConfig,
        MultiRootConfig,
        ResponderConfig,
        SignerConfig,
    )
    from ocspd.index.directory import IndexDirectory
    from ocspd.pki.crl_writer import CRLSigner
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.responder.examining import Examining
    from ocspd.responder.supervisor import Source, Supervisor
    from ocspd.signer.generations import Generations
    from ocspd.signer.importing import FileStatus
    from ocspd.signer.publishing import Publisher
    from ocspd.signer.service import PassDisplay, SignerService
    from ocspd.signer.signer_files import FollowedSigners
    from ocspd.signer.signer_parts import RefreshSource

THIS_UPDATE_STEP = timedelta(minutes=1)
"""What a signer that stays truncates thisUpdate to: a response to a change is not to look an hour old."""


async def open_database(path: str, clock: Clock) -> CertDB:
    """Open the certdb that a configuration file (JSON) names; it connects at the first operation.

    CodedError 5200, naming the file, when it cannot be used.
    """
    from ocspd.certdb import open_certdb, parse_db_config

    with unreadable_as(Code.POLICY_INVALID, "could not read configuration file"):
        data = read_file(path)
    with naming(path):
        config = parse_db_config(data)
    return await open_certdb(config, clock)


# -- authority ---------------------------------------------------------------------------------------


@asynccontextmanager
async def build_authority(config: APIConfig, clock: Clock) -> AsyncIterator[AuthorityService]:
    """Put CFSSL's API together: TLS, database, signers of certificates and responses, endpoints, server."""
    from ocspd.authority.access.protection import Protection
    from ocspd.authority.access.rates import RateLimit
    from ocspd.authority.audit.ledger import Ledger
    from ocspd.authority.bundling_stores import load_platforms
    from ocspd.authority.crls import CRLPublisher
    from ocspd.authority.fetching import Outbound
    from ocspd.authority.issuing import Shared
    from ocspd.authority.scanning.target import read_trust
    from ocspd.authority.service import AuthorityService, Makers, warn_if_unusable
    from ocspd.signer.signer_files import open_signer

    context, client_cn = config.tls.context(), config.tls.pattern()
    if config.bundler.files.metadata:
        load_platforms(config.bundler.files.metadata)  # CFSSL does not start with a bad one
    async with AsyncExitStack() as stack:
        db: CertDB | None = None
        if config.db_config:
            db = await stack.enter_async_context(await open_database(config.db_config, clock))
            await warn_if_unusable(db)
        audit = None
        if config.audit_log:
            audit = await stack.enter_async_context(_audit_log(config, clock))
        workers = config.workers or len(os.sched_getaffinity(0))
        ledger = Ledger(audit)
        shared = Shared(db, clock, workers=workers, journal=ledger)
        stack.push_async_callback(shared.close)

        def signer() -> PolicySigner:
            authority = config.authority()
            local = authority.signing.signs_here
            return build_certificate_signer(authority, db, clock, local=local, shared=shared, ledger=ledger)

        def ocsp_signer() -> OCSPSigner:
            assert config.ocsp is not None
            return open_signer(config.ocsp(), clock, read_file)

        def crls(crl_signer: CRLSigner, predecessor: CRLPublisher | None) -> CRLPublisher:
            assert db is not None
            return CRLPublisher(db, crl_signer, config.crls, clock, predecessor=predecessor)

        makers = Makers(
            signer=signer,
            ocsp_signer=ocsp_signer if config.ocsp else None,
            crl_signer=None
            if db is None or "crl" in config.disabled
            else lambda: build_crl_signer(config.authority()),
            crls=crls,
            bundler=lambda: build_bundler(config.bundler, clock),
            scan_trust=lambda: read_trust(config.bundler.files.ca_bundle),
        )
        protection = Protection(
            config.access,
            rate=RateLimit(config.rate_limit, MACHINE.monotonic) if config.rate_limit else None,
            audit=audit,
            clients="everybody with a certificate of -mutual-tls-ca who can connect"
            if config.tls.client_ca_file
            else "everybody who can connect",
        )
        service = AuthorityService(
            makers,
            config.tls,
            clock,
            context=context,
            client_cn=client_cn,
            db=db,
            disabled=config.disabled,
            read=config.read,
            protection=protection,
            files=config.files,
            outbound=Outbound(allow_private=config.bundler.allow_private),
            admin=config.admin,
            bundles_on_request=bool(config.bundler.files.ca_bundle and config.bundler.files.int_bundle),
        )
        await shared.start()
        yield service


def _audit_log(config: APIConfig, clock: Clock) -> AuditLog:
    from ocspd.authority.audit import reading
    from ocspd.authority.audit.log import AuditLog
    from ocspd.authority.audit.writer import LogFile, open_key

    path = Path(config.audit_log)
    key = open_key(Path(config.audit_key) if config.audit_key else reading.beside(path, reading.KEY))
    about = {"process": os.getpid(), "seal": key.check.name, "files": dict(config.files())}
    file = LogFile(path, key, clock, rotate_bytes=config.audit_rotate_mb << 20)
    return AuditLog(file, clock, about=about)


def build_bundler(config: BundlerConfig, clock: Clock) -> Bundler:
    """Put a bundler together: stores of certificates, and what may be connected to."""
    from ocspd.authority.bundling import Bundler
    from ocspd.authority.bundling_stores import load_stores
    from ocspd.authority.fetching import Outbound

    return Bundler(
        load_stores(config.files),
        clock,
        outbound=Outbound(allow_private=config.allow_private),
        fetch_issuers=config.fetch_issuers,
    )


def build_certificate_signer(  # noqa: PLR0913  (one for each thing it is made of)
    config: AuthorityConfig,
    db: CertDB | None,
    clock: Clock,
    *,
    local: bool,
    shared: Shared | None = None,
    ledger: Ledger | None = None,
) -> PolicySigner:
    """Put together who signs certificates: the CA with its database, if some are signed here, and the policy.

    OCSPDError naming what is missing or not usable; with `local` off the CA is not looked at. `shared` as for
    `Authority`, `ledger` as for `PolicySigner`.
    """
    from ocspd.authority.issuing import Authority
    from ocspd.authority.signers import PolicySigner
    from ocspd.pki.issuer import Issuer

    authority = None
    if local:
        ca, ca_key = config.required_ca()
        certificate = read_certificate(ca)
        with unreadable_as(Code.CERT_READ_FAILED):
            key = read_key(ca_key)
        with naming(f"{ca}, {ca_key}"):  # which may not belong together
            issuer = Issuer(certificate, key, config.signing, clock, allow_weak_rsa=config.allow_rsa_1024)
        authority = Authority(issuer, db, clock, shared=shared)
    return PolicySigner(config.signing, authority, tls=config.tls, clock=clock, ledger=ledger)


def build_crl_signer(config: AuthorityConfig) -> CRLSigner:
    """Put together who signs CRLs: the CA. OCSPDError naming what is missing or not usable."""
    from ocspd.pki.crl_writer import CRLSigner

    ca, ca_key = config.required_ca()
    certificate, key = read_certificate(ca), read_key(ca_key)
    with naming(f"{ca}, {ca_key}"):
        signer = CRLSigner(certificate, key)
    for text in signer.warnings():
        logger.warning("%s: %s", ca, text)
    return signer


@asynccontextmanager
async def build_multiroot(config: MultiRootConfig, clock: Clock) -> AsyncIterator[MultiRootService]:
    """Put multirootca together: TLS, a CA with its policy and its database for each section, server."""
    from ocspd.authority.issuing import Shared
    from ocspd.authority.multiroot_config import parse_roots
    from ocspd.authority.multiroot_service import MultiRootService

    context, client_cn = config.tls.context(), config.tls.pattern()
    async with AsyncExitStack() as stack:
        databases: dict[str, CertDB] = {}

        async def load() -> dict[str, Root]:
            found = parse_roots(read_file(config.roots), config.roots)
            for path in {files.db_config for files in found.values()} - {"", *databases}:
                databases[path] = await stack.enter_async_context(await open_database(path, clock))
            roots = {}
            for label, files in found.items():
                db = databases.get(files.db_config)
                shared = Shared(db, clock)
                roots[label] = _build_root(files, db, config, clock, shared)
                # before the database is closed: what is being signed is to be stored
                stack.push_async_callback(shared.close)
            return roots

        yield MultiRootService(
            load, config.tls, context=context, client_cn=client_cn, default_label=config.default_label
        )


def _build_root(
    files: RootFiles, db: CertDB | None, config: MultiRootConfig, clock: Clock, shared: Shared
) -> Root:
    """Put together one CA of a roots file; OCSPDError naming its label and what is not usable."""
    from ocspd.authority.multiroot import Root
    from ocspd.client.tls import RemoteTLS
    from ocspd.config import AuthorityConfig
    from ocspd.pki.config_json import parse_config

    try:
        data = read_file(files.config)
        with naming(files.config):
            signing = parse_config(data)
        authority = AuthorityConfig(
            signing=signing,
            ca=f"file:{files.certificate}",
            ca_key=files.private,
            allow_rsa_1024=config.allow_rsa_1024,
            tls=RemoteTLS(),
        )
        signer = build_certificate_signer(authority, db, clock, local=signing.signs_here, shared=shared)
    except OCSPDError as err:
        raise ConfigError(f"{config.roots}: [{files.label}]: {err}") from err
    for text in (*signing.doubts, *(f"ignoring unknown key {key}" for key in signing.unknown)):
        logger.warning("%s: %s", files.config, text)
    return Root(files, signer)


# -- signer ------------------------------------------------------------------------------------------


@asynccontextmanager
async def build_signer(
    config: SignerConfig, clock: Clock, display: Callable[[int | None], PassDisplay], *, once: bool
) -> AsyncIterator[SignerService]:
    """Put a signer together: the lock of its index, sources, generations, places, daemon, admin listener.

    `display` shows the progress of passes over about so many certificates. With `once` nothing waits
    for a database that is away, and what is published is published at the end.
    """
    from ocspd.index.directory import IndexDirectory
    from ocspd.ops.systemd import Notifier
    from ocspd.signer.generations import Generations
    from ocspd.signer.priority import behind_requests
    from ocspd.signer.refreshing import SignerDaemon
    from ocspd.signer.service import SignerService, first_estimate, working
    from ocspd.signer.signer_parts import RefreshSettings

    notifier = Notifier.from_environment()
    directory = IndexDirectory(config.index)
    async with AsyncExitStack() as stack:
        stack.enter_context(directory.lock())
        stack.callback(directory.discard_unfinished)
        await stack.enter_async_context(working(behind_requests()))
        source: RefreshSource
        total = None
        if config.from_files:
            source = await _open_files(config, clock)
        else:
            source = database = await stack.enter_async_context(await open_database(config.db_config, clock))
            total = await first_estimate(database, wait=not once)
        generations = Generations(directory, clock)
        stack.callback(generations.close)
        publisher = _publisher(config.publish, generations, clock)
        shown = stack.enter_context(display(total))
        daemon = SignerDaemon(
            db=source,
            source=_follow(config.issuer, clock),
            generations=generations,
            clock=clock,
            settings=RefreshSettings(
                processes=config.processes,
                pass_interval_s=config.pass_interval.total_seconds(),
                table=config.table,
            ),
            on_progress=shown.update,
            on_pass=shown.finish,
        )
        if publisher is not None:
            daemon.stats.publishing = publisher.stats
        if config.admin_port:
            from ocspd.ops.server import HTTPServer
            from ocspd.signer.admin import SignerAdmin

            server = HTTPServer(SignerAdmin(daemon, generations), drain_s=1, port_flag="-admin-port")
            await server.start(config.admin_address, config.admin_port)
            stack.push_async_callback(server.stop)
            logger.info("admin listener on %s:%d", config.admin_address, server.port)
        followed = "the files" if config.from_files else "the database"
        yield SignerService(daemon, generations, publisher, notifier, followed)


def _follow(issuers: Sequence[IssuerConfig], clock: Clock) -> FollowedSigners:
    from ocspd.pki.ocsp import SignerNames
    from ocspd.signer.signer_files import FollowedSigners, SignerFiles

    return FollowedSigners(
        [
            SignerFiles(
                SignerNames(issuer.ca, issuer.responder, issuer.responder_key),
                issuer.policy(THIS_UPDATE_STEP),
            )
            for issuer in issuers
        ],
        clock,
    )


async def _open_files(config: SignerConfig, clock: Clock) -> FileStatus:
    from ocspd.signer.file_source import open_files
    from ocspd.signer.importing import IssuerFiles, Sources

    return await open_files(
        Sources(
            crls=config.crl,
            issuers=tuple(
                IssuerFiles(index_txt=issuer.index_txt, serials=issuer.serials) for issuer in config.issuer
            ),
            allow_expired=config.allow_expired,
        ),
        [issuer.ca for issuer in config.issuer],
        Path(config.index),
        clock,
    )


def _publisher(urls: Sequence[str], generations: Generations, clock: Clock) -> Publisher | None:
    if not urls:
        return None
    from ocspd.index.remote import RemoteIndex
    from ocspd.signer.publishing import Publisher

    remotes = [RemoteIndex(url, clock) for url in urls]
    for remote in remotes:
        remote.check_writable()
    publisher = Publisher(
        remotes,
        generations.directory,
        clock,
        renumber=lambda above: generations.publish(above=above),
    )
    generations.published = publisher.offer
    return publisher


# -- responder ---------------------------------------------------------------------------------------


@asynccontextmanager
async def build_responder(
    config: ResponderConfig, clock: Clock, *, worker: Sequence[str], examiner: Sequence[str]
) -> AsyncIterator[Supervisor]:
    """Put a responder together: its source, sockets, the index served, workers, supervisor, admin listener.

    `worker` and `examiner` are the commands of the processes it starts.
    """
    from ocspd.ops import listeners
    from ocspd.ops.systemd import Notifier, passed_sockets
    from ocspd.responder import descriptors
    from ocspd.responder.control import WorkerSettings
    from ocspd.responder.examining import Examining
    from ocspd.responder.pool import WorkerPool
    from ocspd.responder.served_index import ServedIndex
    from ocspd.responder.supervisor import Supervisor

    count = config.workers or len(os.sched_getaffinity(0))
    limit = descriptors.raise_limit()
    notifier = Notifier.from_environment()
    from_systemd = passed_sockets()
    async with AsyncExitStack() as stack:
        examining = Examining(tuple(examiner))
        stack.push_async_callback(examining.close)
        source = await _source(config, clock, examining, stack)
        sockets = (
            listeners.passed(from_systemd)
            if from_systemd
            else listeners.bind(config.address, config.port, count)
        )
        stack.callback(sockets.close)
        logger.info("Registering OCSP responder handler")
        index = ServedIndex(source.directory, examining, clock)
        pool = WorkerPool(
            command=tuple(worker),
            settings=WorkerSettings(
                path=config.path,
                loglevel=config.loglevel,
                max_age_cap_s=int(config.max_age.total_seconds()),
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
            max_expired=config.max_expired / 100,
            drain_delay_s=config.drain_delay.total_seconds(),
            drain_timeout_s=config.drain_timeout.total_seconds(),
            notifier=notifier,
        )
        await _start_admin(config, supervisor, descriptors.admin_connections(limit, count), stack)
        yield supervisor


async def _source(
    config: ResponderConfig, clock: Clock, examining: Examining, stack: AsyncExitStack
) -> Source:
    """Choose where responses come from: a dump before an index before a database, as CFSSL does."""
    from ocspd.index.directory import IndexDirectory
    from ocspd.responder.responses import PublishedIndex, ResponsesFile

    if config.responses:
        return ResponsesFile(config.responses, _private_directory(stack), clock)
    if "://" in config.index:
        return _pulled(config, clock, examining, stack)
    if config.index:
        return PublishedIndex(IndexDirectory(config.index))
    if config.db_config:
        return await _table(config, clock, stack)
    raise ConfigError(
        "no response file or db-config provided, please set the one of these using either -responses or "
        "-db-config flags (or -index for an index directory)"
    )


def _pulled(config: ResponderConfig, clock: Clock, examining: Examining, stack: AsyncExitStack) -> Source:
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.remote import RemoteIndex
    from ocspd.responder.pulling import PulledIndex

    remote = RemoteIndex(config.index, clock, check=examining.check)
    cache = config.index_cache
    directory = IndexDirectory(cache) if cache else _private_directory(stack)
    source = PulledIndex(remote, directory, clock, poll_s=config.index_poll.total_seconds())
    stack.callback(source.close)
    return source


async def _table(config: ResponderConfig, clock: Clock, stack: AsyncExitStack) -> Source:
    from ocspd.responder.table import GRACE_S, TableSource
    from ocspd.signer.serving import ServingSigner

    signers = _follow(config.issuers, clock) if config.issuers else None
    try:
        database = await open_database(config.db_config, clock)
    except OCSPDError as err:
        raise ConfigError(f"unable to read configuration file {config.db_config}: {err}") from err
    db = await stack.enter_async_context(database)
    directory = _private_directory(stack)
    signer = None if signers is None else ServingSigner(db, signers, directory, clock, grace_s=GRACE_S)
    return TableSource(db=db, signer=signer, directory=directory, clock=clock)


def _private_directory(stack: AsyncExitStack) -> IndexDirectory:
    """Create an index directory that is removed with this process."""
    from ocspd.index.directory import IndexDirectory

    try:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocspd-", ignore_cleanup_errors=True))
    except OSError as err:
        raise OCSPDError(
            f"cannot create a temporary directory: {err.strerror or err}; "
            "set TMPDIR to a file system with room for the index"
        ) from err
    return IndexDirectory(Path(path))


async def _start_admin(
    config: ResponderConfig, supervisor: Supervisor, max_connections: int, stack: AsyncExitStack
) -> None:
    """Start the admin listener; if only the default port is in use, serve without it."""
    if not config.admin_port:
        return
    from ocspd.ops.server import HTTPServer
    from ocspd.responder.admin import Admin

    server = HTTPServer(
        Admin(supervisor), drain_s=1, port_flag="-admin-port", max_connections=max_connections
    )
    try:
        await server.start(config.admin_address, config.admin_port)
    except OCSPDError as err:
        if config.admin_wanted:
            raise OCSPDError(f"admin listener: {err}") from err
        logger.warning("no admin listener: %s", err)
        return
    stack.push_async_callback(server.stop)
    logger.info("admin listener on %s:%d", config.admin_address, server.port)
