r"""The member `access` of the signing configuration (`-config`): who may do what. CFSSL ignores it.

    "access": {
        "clients": {
            "deploy":  {"token": "sha256:…", "issue": ["www"]},
            "ra":      {"certificate": {"CN": "ra-[0-9]+", "OU": "PKI"}, "issue": ["*"], "revoke": true},
            "legacy":  {"auth_key": "key1", "issue": ["www", "client"]},
            "auditor": {"token": "sha256:…", "read": true}
        },
        "open": ["newkey"],
        "closed": ["info"]
    }

A client is recognized by one of

    token         `Authorization: Bearer …`; `ocspd token new` makes one. `prev_token` is accepted as well
    auth_key      a key of `auth_keys`: the request is sent as to authsign, {"token": …, "request": …}
    certificate   a TLS client certificate (-mutual-tls-ca) whose CN, an OU and a SAN match the expressions
                  that are given. They are RE2, as everywhere, and have to match the whole text

and has the rights

    issue         sign, authsign and newcert with these profiles; "default" is the default one, "*" every one
    revoke        revoke
    read          certinfo, crl, bundle, scan, scaninfo
    administer    newkey, init_ca, gencrl, certadd, ocspsign

With `access`, every endpoint demands its right, except for health, info and the names in `open`. A profile's
own `auth_key` goes on admitting whoever has it to authsign and newcert, unless a client has that key: then
that client's rights count. A key that nobody reads is an error here: it might have been a restriction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ocspd import wire
from ocspd.authority.access.tokens import TokenHash, parse_hash
from ocspd.errors import Code, CodedError, ConfigError
from ocspd.pki.go_regexp import Pattern
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ocspd.pki.auth import AuthKey


class Right(Enum):
    """What an endpoint demands."""

    ISSUE = "issue"
    REVOKE = "revoke"
    READ = "read"
    ADMINISTER = "administer"


RIGHTS: dict[str, Right] = {
    "sign": Right.ISSUE,
    "authsign": Right.ISSUE,
    "newcert": Right.ISSUE,
    "revoke": Right.REVOKE,
    "newkey": Right.ADMINISTER,
    "init_ca": Right.ADMINISTER,
    "gencrl": Right.ADMINISTER,
    "certadd": Right.ADMINISTER,
    "ocspsign": Right.ADMINISTER,
    "certinfo": Right.READ,
    "crl": Right.READ,
    "bundle": Right.READ,
    "scan": Right.READ,
    "scaninfo": Right.READ,
    "info": Right.READ,
    "health": Right.READ,
}
"""By the name of the endpoint; another one demands `administer`."""
OPEN = frozenset({"health", "info"})
"""What is open unless `closed` has it: monitoring, and the CA certificate, which is public."""
DEFAULT = "default"
EVERY = "*"


def right_for(endpoint: str) -> Right:
    """Return what an endpoint demands where it is not open."""
    return RIGHTS.get(endpoint, Right.ADMINISTER)


def changes(endpoint: str) -> bool:
    """Return whether an endpoint does more than to read."""
    return right_for(endpoint) is not Right.READ


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRule:
    """Which client certificates are meant; None for what does not matter."""

    common_name: Pattern | None = None
    unit: Pattern | None = None
    alternative_name: Pattern | None = None

    def accepts(self, certificate: Mapping[str, Any], common_name: str | None) -> bool:
        """Return whether a certificate, as `getpeercert` describes it, is meant; never an empty one."""
        if not certificate:
            return False
        return (
            _matches(self.common_name, [common_name or ""])
            and _matches(self.unit, attributes(certificate, "organizationalUnitName"))
            and _matches(self.alternative_name, [name for _, name in certificate.get("subjectAltName", ())])
        )


def attributes(certificate: Mapping[str, Any], kind: str) -> list[str]:
    """Return the attributes of a subject that have this name in OpenSSL's long form."""
    subject = certificate.get("subject", ())
    return [value for relative in subject for attribute, value in relative if attribute == kind]


def _matches(pattern: Pattern | None, texts: Collection[object]) -> bool:
    return pattern is None or any(isinstance(text, str) and pattern.is_whole(text) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client: how it is recognized, and its rights."""

    name: str
    tokens: tuple[TokenHash, ...] = ()
    auth_key: AuthKey | None = None
    key_name: str = ""
    certificate: CertificateRule | None = None
    profiles: frozenset[str] = frozenset()
    rights: frozenset[Right] = frozenset()

    def may_issue(self, profile: str) -> bool:
        """Return whether it may issue with a profile; "" and unknown names are the default one already."""
        return EVERY in self.profiles or profile in self.profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who may do what; without clients, nobody may do anything that is not open."""

    clients: tuple[Client, ...] = ()
    open: frozenset[str] = OPEN

    def by_token(self, digest: bytes) -> Client | None:
        """Return the client whose token has this SHA-256; looks at every one, whichever it is."""
        found = None
        for client in self.clients:
            for token in client.tokens:
                if token.accepts(digest):
                    found = client
        return found

    def by_hmac(self, data: bytes, token: bytes) -> Client | None:
        """Return the client whose auth key made this token for these bytes; looks at every one."""
        found = None
        for client in self.clients:
            if client.auth_key is not None and client.auth_key.verify(data, token):
                found = client
        return found

    def by_certificate(self, certificate: Mapping[str, Any], common_name: str | None) -> Client | None:
        """Return the first client whose rule accepts a certificate."""
        for client in self.clients:
            if client.certificate is not None and client.certificate.accepts(certificate, common_name):
                return client
        return None

    def has_key(self, key: AuthKey) -> bool:
        """Return whether some client has this key: then its rights count, not only the key."""
        return any(client.auth_key == key for client in self.clients)


def parse_access(data: bytes, keys: Mapping[str, AuthKey], profiles: Collection[str]) -> Policy | None:
    """Read `access` from a signing configuration, None when it is not there.

    `keys` and `profiles` are what the same configuration has. CodedError 5200 naming client and member.
    """
    try:
        access = wire.Fields(wire.loads(data), "Config").child("access", "Access")
        if access is None:
            return None
        _refuse_unknown(access, "", "clients", "open", "closed")
        opened, closed = (frozenset(access.strings(name) or ()) for name in ("open", "closed"))
        for name in sorted(opened | closed):
            if name not in RIGHTS:
                raise _wrong(f"{shown(name, 60)!r} is not the name of an endpoint")
        if opened & closed:
            raise _wrong(f"{min(opened & closed)} is both in open and in closed")
        clients = tuple(
            _client(name, wire.Fields(value, "Client"), keys, profiles)
            for name, value in (access.mapping("clients", "Client") or {}).items()
        )
    except wire.JSONError as err:
        raise CodedError(Code.POLICY_INVALID, f"failed to unmarshal configuration: {err}") from err
    _refuse_shared(clients)
    return Policy(clients=clients, open=(OPEN | opened) - closed)


def _client(name: str, fields: wire.Fields, keys: Mapping[str, AuthKey], profiles: Collection[str]) -> Client:
    where = f"client {shown(name, 60)}"
    if not name or not name.isprintable() or len(name) > 60:
        raise _wrong("a client has no name, or one that is too long or not printable")
    known = ("token", "prev_token", "auth_key", "certificate", "issue", "revoke", "read", "administer")
    _refuse_unknown(fields, where, *known)
    key_name = fields.string("auth_key")
    if key_name and key_name not in keys:
        raise _wrong(f"{where}: auth_key {shown(key_name)!r} is not in the auth_keys section")
    tokens = tuple(
        _token(fields, member, where) for member in ("token", "prev_token") if fields.string(member)
    )
    rule = fields.child("certificate", "Certificate")
    certificate = None if rule is None else _rule(rule, where)
    if not tokens and not key_name and certificate is None:
        raise _wrong(f"{where}: has no token, auth_key or certificate to be recognized by")
    issue = frozenset(fields.strings("issue") or ())
    for profile in sorted(issue):
        if profile not in profiles and profile not in {EVERY, DEFAULT}:
            raise _wrong(f"{where}: issue: there is no profile {shown(profile, 60)!r}")
    rights = {right for right in Right if right is not Right.ISSUE and fields.boolean(right.value)}
    return Client(
        name=name,
        tokens=tokens,
        auth_key=keys.get(key_name),
        key_name=key_name,
        certificate=certificate,
        profiles=issue,
        rights=frozenset(rights | ({Right.ISSUE} if issue else set())),
    )


def _token(fields: wire.Fields, member: str, where: str) -> TokenHash:
    try:
        return parse_hash(fields.string(member))
    except CodedError as err:
        raise _wrong(f"{where}: {member}: {err.message}") from err


def _rule(fields: wire.Fields, where: str) -> CertificateRule:
    _refuse_unknown(fields, f"{where}: certificate", "CN", "OU", "SAN")
    patterns = {}
    for member in ("CN", "OU", "SAN"):
        text = fields.string(member)
        try:
            patterns[member] = Pattern(text) if text else None
        except ConfigError as err:
            raise _wrong(f"{where}: certificate: {member}: {err}") from err
    if not any(patterns.values()):
        raise _wrong(f"{where}: certificate: needs CN, OU or SAN")
    return CertificateRule(common_name=patterns["CN"], unit=patterns["OU"], alternative_name=patterns["SAN"])


def _refuse_shared(clients: tuple[Client, ...]) -> None:
    """Refuse what would recognize two clients at once: which rights count would be a matter of order."""
    seen: dict[object, str] = {}
    for client in clients:
        credentials: list[object] = [token.digest for token in client.tokens]
        credentials += [] if client.auth_key is None else [client.auth_key]
        for credential in credentials:
            other = seen.setdefault(credential, client.name)
            if other != client.name:
                raise _wrong(
                    f"clients {shown(other, 60)} and {shown(client.name, 60)} have the same credential"
                )


def _refuse_unknown(fields: wire.Fields, where: str, *known: str) -> None:
    unknown = [shown(key, 60) for key in fields.unknown(*known)]
    if unknown:
        place = f"{where}: " if where else ""
        raise _wrong(f"{place}unknown key {unknown[0]}; use one of {', '.join(known)}")


def _wrong(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID, f"Invalid or unknown policy: access: {text}")
