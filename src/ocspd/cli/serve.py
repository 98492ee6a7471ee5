"""The verb `serve`: CFSSL's API server.

A CA or responder that cannot be used at start is a WARNING and disables its endpoints, as in CFSSL; an
unusable setting (configuration, database configuration, TLS, port) ends the command with one line. SIGTERM
and SIGINT let requests in flight finish; SIGHUP reads certificates, keys and the signing configuration again,
and keeps the old ones if the new ones are not usable.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from ocspd.app import open_database
from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.api.endpoints import Backend, build_endpoints
from ocspd.authority.issuing import Authority
from ocspd.authority.remote_tls import RemoteTLS
from ocspd.authority.signers import PolicySigner
from ocspd.authority.tls import ServerTLS
from ocspd.cli.issue_input import no_more_arguments, require_ca, signing_config
from ocspd.cli.loop import run_uvloop
from ocspd.cli.shared_flags import ALLOW_RSA_1024, EMBED_CA, RESPONDER_ID
from ocspd.cli.signers import signing_policy
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError
from ocspd.inputs import naming, read_certificate, read_file, read_key
from ocspd.logs import logger
from ocspd.ops.server import HTTPServer
from ocspd.pki.issuer import Issuer
from ocspd.pki.ocsp import SignerNames
from ocspd.pki.profiles import default_config
from ocspd.pki.signing_policy import DEFAULT_HASHES
from ocspd.signer.signer_files import SignerFiles, open_signer
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocspd.authority.api.dispatch import Endpoint
    from ocspd.authority.api.sign import Signer
    from ocspd.certdb.base import CertDB
    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.pki.profiles import SigningConfig

T = TypeVar("T")

_DB_CHECK_S = 5.0
_WITHOUT_EFFECT = ("ca-bundle", "int-bundle", "int-dir", "metadata")


def _serve(flags: Flags, arguments: list[str]) -> int:
    no_more_arguments(arguments)
    run_uvloop(_main(flags))
    return 0


async def _main(flags: Flags) -> None:
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        service = _Service(flags, clock)
        for name in _WITHOUT_EFFECT:
            if flags.was_set(name):
                logger.warning("-%s has no effect: this version has no bundle endpoint", name)
        tls = service.tls.context()
        pattern = service.tls.pattern()
        if flags.string("db-config"):
            database = await open_database(flags.string("db-config"), clock)
            service.db = await stack.enter_async_context(database)
            await _warn_if_unusable(service.db)
        dispatcher = Dispatcher(service.endpoints(), client_cn=pattern)
        server = HTTPServer(dispatcher, ssl_context=tls)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stop.set)
        wanted = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, wanted.set)
        address = flags.string("address")
        await server.start(address, flags.integer("port"))
        stack.push_async_callback(server.stop)
        reloading = asyncio.create_task(_reload_on(wanted, service, dispatcher, server))
        stack.callback(reloading.cancel)
        logger.info("Now listening on %s%s:%d", "https://" if tls else "", address, server.port)
        await stop.wait()
        logger.info("stopping: letting requests in flight finish")


async def _reload_on(
    wanted: asyncio.Event, service: _Service, dispatcher: Dispatcher, server: HTTPServer
) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        await service.reload(dispatcher, server)


async def _warn_if_unusable(db: CertDB) -> None:
    """Report early what would make every request fail; the database may come later, so continue."""
    try:
        async with time_limit(_DB_CHECK_S):
            await db.check()
    except TimeoutError:
        logger.warning("%s: no response within %g s, continuing", db.name, _DB_CHECK_S)
    except OCSPDError as err:
        logger.warning("%s", err)


class _Service:
    """The objects given by the flags, read again on every reload."""

    def __init__(self, flags: Flags, clock: Clock) -> None:
        self._flags = flags
        self._clock = clock
        self._backend: Backend | None = None
        self.db: CertDB | None = None
        self.tls = ServerTLS(
            certificate_file=flags.string("tls-cert"),
            key_file=flags.string("tls-key"),
            client_ca_file=flags.string("mutual-tls-ca"),
            client_cn=flags.string("mutual-tls-cn"),
            min_version=flags.string("min-tls-version"),
        )

    def endpoints(self) -> dict[str, Endpoint]:
        """Make the endpoints; those that cannot be used are left out with a warning."""
        return self._build(None)

    async def reload(self, dispatcher: Dispatcher, server: HTTPServer) -> None:
        """Read everything again (SIGHUP); keep everything in use if any part of it is now unusable."""
        logger.info("reloading")
        try:
            endpoints = self._build(self._backend)
            context = self.tls.context()
            if context is not None:
                await server.use_tls(context)
        except (OCSPDError, OSError) as err:
            logger.error("reload failed, nothing was changed: %s", err)
            return
        dispatcher.endpoints = endpoints
        names = (
            "config",
            "ca",
            "ca-key",
            "responder",
            "responder-key",
            "tls-cert",
            "tls-key",
            "mutual-tls-ca",
        )
        read = ", ".join(f"-{name}" for name in names if self._flags.string(name))
        logger.info(
            "reloaded %s; flags and -db-config stay as they are", read or "nothing: no files are given"
        )

    def _build(self, current: Backend | None) -> dict[str, Endpoint]:
        requested = self._flags.string("responder") or self._flags.string("responder-key")
        signer = _renew("signer", self._signer, None if current is None else current.signer)
        ocsp_signer = None
        if requested:
            ocsp_signer = _renew(
                "ocsp signer", self._ocsp_signer, None if current is None else current.ocsp_signer
            )
        backend = Backend(clock=self._clock, signer=signer, ocsp_signer=ocsp_signer, db=self.db)
        endpoints = build_endpoints(backend, self._flags.string("disable").split(","))
        self._backend = backend
        return endpoints

    def _signer(self) -> Signer:
        flags = self._flags
        config = signing_config(flags) or default_config()
        if flags.string("remote"):
            config = config.with_remote(flags.string("remote"))
        tls = RemoteTLS(
            ca_file=flags.string("tls-remote-ca"),
            certificate_file=flags.string("mutual-tls-client-cert"),
            key_file=flags.string("mutual-tls-client-key"),
        )
        all_remote = all(profile.is_remote for profile in (config.default, *config.profiles.values()))
        authority = None if all_remote else self._authority(config)
        return PolicySigner(config, authority, tls=tls, clock=self._clock)

    def _authority(self, config: SigningConfig) -> Authority:
        ca, ca_key = require_ca(self._flags)
        certificate, key = read_certificate(ca), read_key(ca_key)
        with naming(ca_key):
            weak = self._flags.boolean("allow-rsa-1024")
            # checks that the two belong together
            issuer = Issuer(certificate, key, config, self._clock, allow_weak_rsa=weak)
        return Authority(issuer, self.db, self._clock)

    def _ocsp_signer(self) -> OCSPSigner:
        flags = self._flags
        for name in ("ca", "responder", "responder-key"):
            if not flags.string(name):
                raise ConfigError(f"no -{name} given")
        names = SignerNames(*map(flags.string, ("ca", "responder", "responder-key")))
        policy = signing_policy(flags, DEFAULT_HASHES)
        return open_signer(SignerFiles(names, policy), self._clock, read_file)


def _renew(name: str, make: Callable[[], T], current: T | None) -> T | None:
    """Make a part again; if that fails, OCSPDError if one is in use, otherwise a warning and None."""
    try:
        return make()
    except OCSPDError as err:
        if current is not None:
            raise
        logger.warning("couldn't initialize %s: %s", name, err)
        return None


VERBS = (
    Verb(
        "serve",
        """ocspd serve -- run the HTTP server of CFSSL's API

Usage of serve:
        ocspd serve [-address address] [-port port] [-ca cert] [-ca-key key] [-config config] \\
                    [-db-config db-config] [-responder cert] [-responder-key key] [-disable endpoint,...] \\
                    [-tls-cert cert] [-tls-key key] [-mutual-tls-ca ca] [-mutual-tls-cn regex] \\
                    [-min-tls-version version] [-remote remote_host] [-tls-remote-ca ca] \\
                    [-mutual-tls-client-cert cert] [-mutual-tls-client-key key]

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
            ALLOW_RSA_1024,
        ),
        _serve,
    ),
)
