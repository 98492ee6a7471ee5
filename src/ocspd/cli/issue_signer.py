"""The signer of a command line: the CA of -ca and -ca-key, or a remote server.

`-remote` makes every profile remote. Without it the profile decides: one with `remote` or `auth_remote`
in the configuration is signed remotely, any other one here.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ocspd.app import open_database
from ocspd.authority.issuing import Authority
from ocspd.authority.remote_tls import RemoteTLS
from ocspd.authority.signers import PolicySigner
from ocspd.cli.issue_input import require_ca, signing_config
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from ocspd.inputs import naming, read_certificate, read_key
from ocspd.logs import logger
from ocspd.pki.issuer import Issuer, SignRequest
from ocspd.pki.profiles import Profile, default_config

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.cli.flags import Flags


class Signer:
    """The signer given by the flags; only the configuration is read before it signs."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._clock = SystemClock()
        config = signing_config(flags) or default_config()
        if flags.string("remote"):
            config = config.with_remote(flags.string("remote"))
        self._config = config
        self.profile: Profile = config.profile(flags.string("profile"))

    def check(self) -> None:
        """Reject a command line without a CA, before a key is generated in vain."""
        if not self.profile.is_remote:
            require_ca(self._flags)

    async def sign(self, request: SignRequest) -> str:
        """Sign and, with -db-config, store; returns the certificate (PEM)."""
        async with AsyncExitStack() as stack:
            authority = None
            if not self.profile.is_remote:
                authority = Authority(self._issuer(), await self._open_db(stack), self._clock)
            elif self._flags.string("db-config"):
                logger.warning("-db-config has no effect: the remote server stores the certificates it signs")
            certificate = await self._policy_signer(authority).sign(request)
        return certificate if certificate.endswith("\n") else f"{certificate}\n"

    async def info(self) -> dict[str, Any]:
        """Return CFSSL's info object; CodedError 2000 for a local signer without a CA."""
        authority = None
        if not self.profile.is_remote:
            if not (self._flags.string("ca") and self._flags.string("ca-key")):
                raise CodedError(
                    Code.KEY_UNKNOWN, "Unknown private key error: a local signer requires -ca and -ca-key"
                )
            authority = Authority(self._issuer(), None, self._clock)
        label, profile = self._flags.string("label"), self._flags.string("profile")
        return await self._policy_signer(authority).info(label=label, profile=profile)

    def _issuer(self) -> Issuer:
        ca, ca_key = require_ca(self._flags)
        certificate, key = read_certificate(ca), read_key(ca_key)
        with naming(f"{ca}, {ca_key}"):
            return Issuer(
                certificate,
                key,
                self._config,
                self._clock,
                allow_weak_rsa=self._flags.boolean("allow-rsa-1024"),
            )

    async def _open_db(self, stack: AsyncExitStack) -> CertDB | None:
        path = self._flags.string("db-config")
        if not path:
            return None
        return await stack.enter_async_context(await open_database(path, self._clock))

    def _policy_signer(self, authority: Authority | None) -> PolicySigner:
        tls = RemoteTLS(
            ca_file=self._flags.string("tls-remote-ca"),
            certificate_file=self._flags.string("mutual-tls-client-cert"),
            key_file=self._flags.string("mutual-tls-client-key"),
        )
        return PolicySigner(self._config, authority, tls=tls, clock=self._clock)
