"""Signing for the API: by the authority of this process, a remote one, or each for its own profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocspd.authority.once import AnsweredError, BadKeyError
from ocspd.errors import Code, CodedError

if TYPE_CHECKING:
    from ocspd.authority.audit.ledger import Ledger
    from ocspd.authority.issuing import Authority
    from ocspd.authority.once import Once
    from ocspd.client.api import APIClient
    from ocspd.client.tls import RemoteTLS
    from ocspd.clock import Clock
    from ocspd.pki.issuer import SignRequest
    from ocspd.pki.profiles import Profile, SigningConfig


class PolicySigner:
    """Signs a request here or remotely, as its profile requires.

    `authority` may be None when every profile is remote. A certificate signed elsewhere is not stored
    here, as in CFSSL. A client's token is checked against this policy and not forwarded: `auth_remote`
    has a key of its own for the remote server.
    """

    def __init__(
        self,
        config: SigningConfig,
        authority: Authority | None,
        *,
        tls: RemoteTLS,
        clock: Clock,
        ledger: Ledger | None = None,
    ) -> None:
        """Tell `ledger` of what another server signs."""
        self._ledger = ledger
        self.config = config
        self._authority = authority
        self._tls = tls
        self._clock = clock
        for profile in (config.default, *config.profiles.values()):
            if profile.is_remote:
                self._remote(profile)  # an address or TLS file that cannot be used is told now

    @property
    def trouble(self) -> str:
        """Why nothing can be signed here at present; "" when it can. Says nothing of other servers."""
        return "" if self._authority is None else self._authority.trouble

    async def sign(self, request: SignRequest, once: Once | None = None) -> str:
        """Sign, store when signed here, and return the certificate (PEM).

        With `once` also the errors of `once`: BadKeyError for a remote profile, AnsweredError.
        """
        profile = self.config.profile(request.profile)
        if not profile.is_remote:
            signed = await self._local().sign(request, once)
            if signed.again and once is not None and not once.repeatable:
                raise AnsweredError(
                    f"a certificate was issued for this Idempotency-Key, with serial number {signed.serial}; "
                    "its private key was in that reply and is not kept: use another key"
                )
            return signed.cert_pem
        if once is not None:
            raise BadKeyError("Idempotency-Key cannot be used with a profile of a remote server")
        if request.return_precert:
            raise CodedError(
                Code.POLICY_INVALID_REQUEST,
                "ReturnPrecert cannot be used with a profile of a remote server, which may ignore it",
            )
        signed_there = await self._remote(profile).sign(
            request.csr_pem,
            hosts=request.hosts,
            subject=None if request.subject is None else request.subject.to_json(),
            profile=request.profile,
            label=request.label,
            serial=request.serial,
            crl_url=request.crl_url,
        )
        if self._ledger is not None:
            await self._ledger.forwarded(request, signed_there)
        return signed_there

    async def info(self, *, label: str, profile: str) -> dict[str, Any]:
        """Return CFSSL's info object; with only one CA here, the label is ignored."""
        found = self.config.profile(profile)
        if not found.is_remote:
            return self._local().issuer.info(profile)
        info = await self._remote(found).info(label=label, profile=profile)
        usages = None if info.usages is None else list(info.usages)
        return {"certificate": info.certificate, "usages": usages, "expiry": info.expiry}

    def _local(self) -> Authority:
        if self._authority is None:
            raise CodedError(
                Code.KEY_UNAVAILABLE, "this profile is not remote, and this server has no CA key"
            )
        return self._authority

    def _remote(self, profile: Profile) -> APIClient:
        # The HTTP client takes longer to import than a local signature takes.
        from ocspd.client.api import APIClient  # noqa: PLC0415

        key = "" if profile.auth_remote is None else profile.auth_remote.key
        return APIClient(profile.remote_server, auth_key=key, tls=self._tls, clock=self._clock)
