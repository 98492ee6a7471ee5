"""The signer of a command line: the CA of -ca and -ca-key, or a remote server.

`-remote` makes every profile remote. Without it the profile decides: one with `remote` or `auth_remote`
in the configuration is signed remotely, any other one here.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ocspd.app import build_certificate_signer, open_database
from ocspd.cli.issue_input import authority_config
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError
from ocspd.logs import logger

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
    from ocspd.pki.issuer import SignRequest
    from ocspd.pki.profiles import Profile


class Signer:
    """The signer given by the flags; only the configuration is read before it signs."""

    def __init__(self, flags: Flags) -> None:
        self._clock = SystemClock()
        self._config = authority_config(flags)
        self._label, self._profile = flags.string("label"), flags.string("profile")
        self._db_config = flags.string("db-config")
        self.profile: Profile = self._config.signing.profile(self._profile)

    def check(self) -> None:
        """Reject a command line without a CA, before a key is generated in vain."""
        if not self.profile.is_remote:
            self._config.required_ca()

    async def sign(self, request: SignRequest) -> str:
        """Sign and, with -db-config, store; returns the certificate (PEM)."""
        local = not self.profile.is_remote
        async with AsyncExitStack() as stack:
            db = None
            if self._db_config and local:
                database = await open_database(self._db_config, self._clock)
                db = await stack.enter_async_context(database)
            elif self._db_config:
                logger.warning("-db-config has no effect: the remote server stores the certificates it signs")
            signer = build_certificate_signer(self._config, db, self._clock, local=local)
            certificate = await signer.sign(request)
        return certificate if certificate.endswith("\n") else f"{certificate}\n"

    async def info(self) -> dict[str, Any]:
        """Return CFSSL's info object; CodedError 2000 for a local signer without a CA."""
        local = not self.profile.is_remote
        if local and not (self._config.ca and self._config.ca_key):
            raise CodedError(
                Code.KEY_UNKNOWN, "Unknown private key error: a local signer requires -ca and -ca-key"
            )
        signer = build_certificate_signer(self._config, None, self._clock, local=local)
        return await signer.info(label=self._label, profile=self._profile)
