"""Who acts: the client on whose behalf the current task works, for rights and for the audit log.

It is a context variable, as it belongs to the task of one request: what signs or revokes takes it from
here, however many functions lie between. Outside of a guarded request nobody in particular acts, and may do
anything.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ocspd.authority.access.policy import DEFAULT
from ocspd.authority.api.api_response import HTTPStatusError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.authority.access.policy import Client, Policy
    from ocspd.pki.auth import AuthKey
    from ocspd.pki.profiles import SigningConfig


@dataclass(slots=True, kw_only=True)
class Actor:
    """One caller. `policy` is None where everything is open."""

    address: str = ""
    subject: str = ""
    """Of its TLS client certificate."""
    endpoint: str = ""
    policy: Policy | None = None
    client: Client | None = None
    key: str = ""
    """The name of the auth key that it proved to have."""

    @property
    def is_authenticated(self) -> bool:
        """Whether anything is known of it but its address."""
        return self.client is not None or bool(self.key) or bool(self.subject)

    def check_issue(self, profile: str, config: SigningConfig, proved: AuthKey | None = None) -> None:
        """Raise 401 or 403 unless it may issue with a profile of this configuration.

        `proved` is the key of that profile, if the request carried a valid token of it.
        """
        if proved is not None:
            self.key = next((name for name, key in config.auth_keys.items() if key == proved), "")
        if self.policy is None or self.endpoint in self.policy.open:
            return
        if self.client is None:
            if proved is None or self.policy.has_key(proved):
                raise unauthenticated()
            return  # the profile's own key is what CFSSL's clients have
        name = profile if profile in config.profiles else DEFAULT
        if not self.client.may_issue(name):
            raise forbidden(f"client {self.client.name} may not issue with the profile {name}")

    def describe(self) -> dict[str, Any]:
        """Return what the audit log says of it."""
        described = {
            "client": "" if self.client is None else self.client.name,
            "address": self.address,
            "subject": self.subject,
            "key": self.key,
            "endpoint": self.endpoint,
        }
        return {name: value for name, value in described.items() if value}


_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current() -> Actor:
    """Return who acts in the current task."""
    return _current.get() or Actor()


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Make this the actor for the time of a request."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)


def unauthenticated(text: str = "authentication required") -> HTTPStatusError:
    """Return the error for a client that is not known (RFC 9110 §15.5.2 asks for WWW-Authenticate)."""
    return HTTPStatusError(
        HTTPStatus.UNAUTHORIZED, text, headers={"WWW-Authenticate": 'Bearer realm="ocspd"'}
    )


def forbidden(text: str) -> HTTPStatusError:
    """Return the error for a client that is known and may not do this."""
    return HTTPStatusError(HTTPStatus.FORBIDDEN, text)
