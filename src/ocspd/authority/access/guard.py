"""What stands before the endpoints: who calls, how often, whether it may, and a record if it was refused.

In this order: the client is recognized (a wrong token or HMAC is 401 whatever else was sent), its rate is
counted (429), its right is checked (401 or 403), the endpoint runs. What an authenticated client is refused,
here or by the endpoint, has an entry in the audit log before the reply leaves.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.authority.access.actor import Actor, acting, forbidden, unauthenticated
from ocspd.authority.access.policy import Right, attributes, changes, right_for
from ocspd.authority.access.rates import network_of
from ocspd.authority.access.tokens import digest
from ocspd.authority.api.api_response import HTTPStatusError, failure_of
from ocspd.authority.api.call import Endpoint
from ocspd.authority.api.sign import unwrap
from ocspd.errors import Code, CodedError
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.authority.access.policy import Policy
    from ocspd.authority.access.rates import RateLimit
    from ocspd.authority.api.api_response import Success
    from ocspd.authority.api.call import Call, Document
    from ocspd.authority.audit.log import AuditLog

_SHORT = {
    "commonName": "CN",
    "organizationalUnitName": "OU",
    "organizationName": "O",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "countryName": "C",
}
_UNWRAPS_ITSELF = frozenset({"authsign", "newcert"})
"""Endpoints that check a token against the key of the profile."""
_LOGGED_AFTERWARDS = frozenset({"newkey", "init_ca", "gencrl", "ocspsign"})
"""Endpoints that change nothing here, so that an entry before the reply leaves is early enough."""


class Guard:
    """Protects endpoints; None for what is not configured."""

    def __init__(
        self, policy: Policy | None, *, rate: RateLimit | None = None, audit: AuditLog | None = None
    ) -> None:
        self.policy = policy
        self._rate = rate
        self._audit = audit

    def protect(self, endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
        """Return the endpoints with this before them; what is not below CFSSL's prefix stays public."""
        return {
            path: self._protected(path.removeprefix(wire.API_PREFIX), endpoint)
            if path.startswith(wire.API_PREFIX)
            else endpoint
            for path, endpoint in endpoints.items()
        }

    def _protected(self, name: str, endpoint: Endpoint) -> Endpoint:
        async def run(call: Call) -> Success | Document:
            actor = Actor(
                address=call.caller.address,
                subject=subject_of(call.caller.peer_certificate),
                endpoint=name,
                policy=self.policy,
            )
            try:
                call = await self._admit(name, call, actor)
                if self._audit is not None and changes(name):
                    await self._audit.check()  # before anything is signed that could not be logged
                with acting(actor):
                    reply = await endpoint.run(call)
                if self._audit is not None and name in _LOGGED_AFTERWARDS:
                    await self._audit.append({"event": name, **actor.describe(), "result": "ok"})
            except Exception as err:
                await self._record(name, actor, err)
                raise
            return reply

        return Endpoint(endpoint.method, run, head=endpoint.head)

    async def _admit(self, name: str, call: Call, actor: Actor) -> Call:
        refused: HTTPStatusError | None = None
        try:
            call = await self._recognized(name, call, actor)
        except HTTPStatusError as err:
            refused = err
        if self._rate is not None:
            client = network_of(actor.address) if actor.client is None else f"client {actor.client.name}"
            wait = self._rate.take(client)
            if wait:
                raise HTTPStatusError(
                    HTTPStatus.TOO_MANY_REQUESTS, "too many requests", headers={"Retry-After": str(wait)}
                )
        if refused is not None:
            raise refused
        if self.policy is not None and name not in self.policy.open:
            _check_right(name, actor)
        return call

    async def _recognized(self, name: str, call: Call, actor: Actor) -> Call:
        """Find out which client calls, and return the call without what only served to prove that."""
        policy = self.policy
        if policy is None:
            return call
        token = _bearer(call.headers)
        if token is not None:
            actor.client = policy.by_token(digest(token))
            if actor.client is None:
                raise unauthenticated("invalid token")
            return call
        wrapped = await unwrap(call.body)
        if wrapped is not None:
            mac, inner = wrapped
            actor.client = policy.by_hmac(inner, mac)
            if actor.client is not None:
                actor.key = actor.client.key_name
            elif name not in _UNWRAPS_ITSELF and name not in policy.open:
                raise unauthenticated("invalid token")
            if name in _UNWRAPS_ITSELF or actor.client is None:
                return call
            return replace(call, body=inner)
        certificate = call.caller.peer_certificate
        names = attributes(certificate, "commonName")
        actor.client = policy.by_certificate(certificate, names[-1] if names else None)
        return call

    async def _record(self, name: str, actor: Actor, error: Exception) -> None:
        """Log that an authenticated client was refused; CodedError 12000 if that fails."""
        if self._audit is None or not actor.is_authenticated or not changes(name):
            return
        if isinstance(error, CodedError) and error.code is Code.AUDIT_FAILED:
            return
        failure = failure_of(error)
        failed = failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        await self._audit.append(
            {
                "event": "refused",
                **actor.describe(),
                "result": "failed" if failed else "refused",
                "code": failure.code or failure.status.value,
                "message": shown(failure.text, 500),
            }
        )


def _check_right(name: str, actor: Actor) -> None:
    right = right_for(name)
    if actor.client is None:
        if name in _UNWRAPS_ITSELF:
            return  # the token of a profile's key will do: the endpoint checks it
        raise unauthenticated()
    if right not in actor.client.rights:
        what = "issue certificates" if right is Right.ISSUE else f"call {name}"
        raise forbidden(f"client {actor.client.name} may not {what}")


def _bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of an Authorization field; 401 for another scheme, as it would not be checked."""
    field = headers.get("Authorization")
    if field is None:
        return None
    scheme, _, token = field.partition(" ")
    if scheme.lower() != "bearer":
        raise unauthenticated("unknown authorization scheme: use Bearer")
    return token.strip()


def subject_of(certificate: Mapping[str, Any]) -> str:
    """Write the subject of a certificate, as `getpeercert` describes it, in one line."""
    parts = [
        f"{_SHORT.get(kind, kind)}={value}"
        for relative in certificate.get("subject", ())
        for kind, value in relative
    ]
    if certificate and not parts:
        parts = [f"serialNumber={certificate.get('serialNumber', '')}"]
    return ",".join(parts)[:1000]
