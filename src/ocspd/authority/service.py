"""CFSSL's API as a service: what is read again on SIGHUP, and the server that stays until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ocspd.authority.access.protection import remind
from ocspd.authority.api.dispatch import Dispatcher
from ocspd.authority.api.endpoints import Backend, build_endpoints
from ocspd.authority.audit.ledger import Ledger
from ocspd.authority.offload import offload
from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.ops.reloading import reload_on
from ocspd.ops.server import HTTPServer
from ocspd.shown import shown
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from ocspd.authority.access.protection import Protection
    from ocspd.authority.api.call import Endpoint
    from ocspd.authority.api.sign import Signer
    from ocspd.authority.api.traffic import Traffic
    from ocspd.authority.bundling import Bundler
    from ocspd.authority.crls import CRLPublisher
    from ocspd.authority.fetching import Outbound
    from ocspd.authority.scanning.target import Trust
    from ocspd.authority.tls import ServerTLS
    from ocspd.certdb.base import CertDB
    from ocspd.clock import Clock
    from ocspd.pki.crl_writer import CRLSigner
    from ocspd.pki.go_regexp import Pattern
    from ocspd.pki.ocsp import OCSPSigner

T = TypeVar("T")

_DB_CHECK_S = 5.0
_STOP_S = 5.0
"""How long what is stopped may take to let go of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """What makes the parts of the API from files, at the start and on every reload."""

    signer: Callable[[], Signer]
    ocsp_signer: Callable[[], OCSPSigner] | None
    """None where no OCSP signer is asked for."""
    crl_signer: Callable[[], CRLSigner] | None
    """None without a database, or where CRLs are switched off."""
    crls: Callable[[CRLSigner, CRLPublisher | None], CRLPublisher]
    """Makes what publishes the CRLs of a signer, given what published the CRLs before, if any."""
    bundler: Callable[[], Bundler]
    scan_trust: Callable[[], Trust]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a start or a reload has read."""

    backend: Backend
    endpoints: Mapping[str, Endpoint]
    protect: Callable[[Mapping[str, Endpoint]], dict[str, Endpoint]]
    """Puts the policy before the endpoints."""


class AuthorityService:
    """The API server. A part that cannot be used at the start is a warning, and its endpoints are missing."""

    def __init__(  # noqa: PLR0913  (one for each thing it is made of)
        self,
        makers: Makers,
        tls: ServerTLS,
        clock: Clock,
        *,
        client_cn: Pattern | None,
        context: ssl.SSLContext | None,
        db: CertDB | None,
        disabled: Sequence[str],
        read: Sequence[str],
        protection: Protection,
        files: Callable[[], Mapping[str, str]],
        outbound: Outbound,
        bundles_on_request: bool,
        admin: tuple[str, int] = ("", 0),
    ) -> None:
        """`client_cn` and `context` are what `tls` has now; `read` names flags whose files a reload reads.

        `files` returns their digests, but not those of keys, for the audit log.
        `bundles_on_request` is whether `sign` and `newcert` bundle what they sign. `admin` is where the
        admin listener listens, none on port 0.
        """
        self._makers = makers
        self._tls = tls
        self._clock = clock
        self._db = db
        self._disabled = disabled
        self._read = ", ".join(read)
        self._protection = protection
        self._files = files
        self._admin = admin
        self._outbound = outbound
        self._bundles_on_request = bundles_on_request
        self._backend: Backend | None = None
        self._followed: CRLPublisher | None = None
        self._following: asyncio.Task[None] | None = None
        self._dispatcher = Dispatcher({}, client_cn=client_cn)
        self._use(self._made())
        self._server = HTTPServer(
            self._dispatcher, ssl_context=context, refuse_method=self._dispatcher.refuse_method
        )

    @property
    def backend(self) -> Backend:
        """What the endpoints work with at present."""
        assert self._backend is not None
        return self._backend

    @property
    def open_endpoints(self) -> tuple[str, ...]:
        """The endpoints that change something and demand no authentication."""
        return self._protection.open_endpoints

    @property
    def traffic(self) -> Traffic:
        """What was replied."""
        return self._dispatcher.traffic

    async def run(self, address: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT; OCSPDError when nothing can listen there."""
        async with AsyncExitStack() as stack:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signal_number, stop.set)
            wanted = asyncio.Event()
            loop.add_signal_handler(signal.SIGHUP, wanted.set)
            await self._server.start(address, port)
            stack.push_async_callback(self._server.stop)
            reloading = asyncio.create_task(reload_on(wanted, self._reload))
            stack.callback(reloading.cancel)
            stack.push_async_callback(self._stop_crls)
            await self._start_crls()
            await self._start_admin(stack)
            scheme = "https://" if self._tls.enabled else ""
            logger.info("Now listening on %s%s:%d", scheme, address, self._server.port)
            reminding = asyncio.create_task(remind(self._protection, address, self._server.port))
            stack.callback(reminding.cancel)
            await stop.wait()
            logger.info("stopping: letting requests in flight finish")

    async def _start_admin(self, stack: AsyncExitStack) -> None:
        address, port = self._admin
        if not port:
            return
        # most servers have no such listener, and its metrics take time to load
        from ocspd.authority.admin import AuthorityAdmin  # noqa: PLC0415

        server = HTTPServer(AuthorityAdmin(self, self._clock), drain_s=1, port_flag="-admin-port")
        await server.start(address, port)
        stack.push_async_callback(server.stop)
        logger.info("admin listener on %s:%d", address, server.port)

    async def _reload(self) -> None:
        """Read everything again (SIGHUP); keep everything in use if any part of it is now unusable."""
        logger.info("reloading")
        try:
            made = await offload(self._made)  # a profile that lints may take seconds to read
            context = self._tls.context()
            await self._log({"event": "reload", "result": "ok", "files": self._files()})
            if context is not None:
                await self._server.use_tls(context)
        except (OCSPDError, OSError) as err:
            logger.error("reload failed, nothing was changed: %s", err)
            with contextlib.suppress(OCSPDError):
                await self._log({"event": "reload", "result": "failed", "message": shown(str(err), 500)})
            return
        self._use(made)
        await self._start_crls()
        logger.info(
            "reloaded %s; flags and -db-config stay as they are",
            self._read or "nothing: no files are given",
        )

    async def _log(self, fields: Mapping[str, Any]) -> None:
        if self._protection.audit is not None:
            await self._protection.audit.append(fields)

    def _use(self, made: _Made) -> None:
        """Take what was made into use, all of it at once."""
        self._backend = made.backend
        self._dispatcher.endpoints = made.protect(made.endpoints)

    def _made(self) -> _Made:
        """Read everything; nothing is in use before `_use`, as another file may turn out to be unusable."""
        current = self._backend
        protect = self._protection.renewed()
        signer = _renew("signer", self._makers.signer, None if current is None else current.signer)
        ocsp_signer = None
        if self._makers.ocsp_signer is not None:
            ocsp_signer = _renew(
                "ocsp signer", self._makers.ocsp_signer, None if current is None else current.ocsp_signer
            )
        crl_signer, crls = None, None if current is None else current.crls
        if self._makers.crl_signer is not None:
            crl_signer = _renew(
                "CRL signer", self._makers.crl_signer, None if current is None else current.crl_signer
            )
        if crl_signer is not None and (crls is None or crls.signer.certificate != crl_signer.certificate):
            crls = self._makers.crls(crl_signer, crls)
        bundler = _renew("bundler", self._makers.bundler, None if current is None else current.bundler)
        scan_trust = _renew(
            "scan roots", self._makers.scan_trust, None if current is None else current.scan_trust
        )
        backend = Backend(
            clock=self._clock,
            signer=signer,
            ocsp_signer=ocsp_signer,
            db=self._db,
            crl_signer=crl_signer,
            crls=crls,
            bundler=bundler,
            bundles_on_request=self._bundles_on_request,
            outbound=self._outbound,
            ledger=Ledger(self._protection.audit),
            scan_trust=scan_trust,
        )
        return _Made(backend, build_endpoints(backend, self._disabled), protect)

    async def _start_crls(self) -> None:
        """Have the CRLs follow the database, unless they do."""
        wanted = None if self._backend is None else self._backend.crls
        if wanted is self._followed:
            return
        await self._stop_crls()
        self._followed = wanted
        if wanted is not None:
            self._following = asyncio.create_task(wanted.run())

    async def _stop_crls(self) -> None:
        following, self._following, self._followed = self._following, None, None
        if following is not None:
            following.cancel()
            await asyncio.wait({following}, timeout=_STOP_S)


async def warn_if_unusable(db: CertDB) -> None:
    """Report early what would make every request fail; the database may come later, so continue."""
    try:
        async with time_limit(_DB_CHECK_S):
            await db.check()
    except TimeoutError:
        logger.warning("%s: no response within %g s, continuing", db.name, _DB_CHECK_S)
    except OCSPDError as err:
        logger.warning("%s", err)


def _renew(name: str, make: Callable[[], T], current: T | None) -> T | None:
    """Make a part again; if that fails, OCSPDError if one is in use, otherwise a warning and None."""
    try:
        return make()
    except OCSPDError as err:
        if current is not None:
            raise
        logger.warning("couldn't initialize %s: %s", name, err)
        return None
