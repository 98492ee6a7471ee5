"""Reading a signing configuration; what it means is in `profiles`."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.errors import Code, CodedError, ConfigError, DERError
from ocspd.pki import names
from ocspd.pki.auth import AuthKey, parse_auth_key
from ocspd.pki.config_keys import (
    GO_DURATIONS,
    check_go_internal,
    nanoseconds,
    repeated_keys,
    unknown_keys,
)
from ocspd.pki.go_regexp import Pattern
from ocspd.pki.profiles import AuthRemote, CAConstraint, CSRWhitelist, Profile, SigningConfig, default_profile
from ocspd.pki.usages import EXTENDED_KEY_USAGES, KEY_USAGES, parse_usages
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.pki.ct import CTLog
    from ocspd.pki.lint import LintPolicy

_QUALIFIERS = ("id-qt-cps", "id-qt-unotice")
_PROFILE_KEYS = (
    "usages",
    "expiry",
    "backdate",
    "not_before",
    "not_after",
    "ca_constraint",
    "ocsp_url",
    "crl_url",
    "issuer_urls",
    "ocsp_no_check",
    "policies",
    "copy_extensions",
    "allowed_extensions",
    "CSRWhitelist",
    "csr_whitelist",
    "name_whitelist",
    "NameWhitelist",
    "auth_key",
    "prev_auth_key",
    "remote",
    "auth_remote",
    "ct_log_servers",
    "ct_log_keys",
    "cert_store",
    "lint_error_level",
    "ignored_lints",
    "ignored_lint_sources",
    "ClientProvidesSerialNumbers",
    "RemoteServer",
)


LINT_LEVELS = {"reserved": 0, "NA": 1, "NE": 2, "pass": 3, "info": 4, "warn": 5, "error": 6, "fatal": 7}
"""zlint's statuses; a finding whose status is above the one in `lint_error_level` refuses a certificate."""

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_WHITELIST_KEYS = (
    "Subject",
    "PublicKeyAlgorithm",
    "PublicKey",
    "SignatureAlgorithm",
    "DNSNames",
    "IPAddresses",
    "EmailAddresses",
    "URIs",
)
_KEYS_BELOW = {
    "ca_constraint": ("is_ca", "max_path_len", "max_path_len_zero"),
    "auth_remote": ("remote", "auth_key"),
    "CSRWhitelist": _WHITELIST_KEYS,
    "csr_whitelist": _WHITELIST_KEYS,
}


def invalid(text: str) -> CodedError:
    """Return the error for a configuration that cannot be used (5200)."""
    return CodedError(Code.POLICY_INVALID, f"Invalid or unknown policy: {text}")


def parse_config(data: bytes) -> SigningConfig:
    """Read a signing configuration; CodedError 5200, or ConfigError when there is no signing section."""
    try:
        top = wire.Fields(wire.loads(data), "Config")
        signing = top.child("signing", "Signing")
        if signing is None:
            raise ConfigError('no "signing" field in the configuration')
        keys = {
            name: _auth_key(name, wire.Fields(value, "AuthKey"))
            for name, value in (top.mapping("auth_keys", "AuthKey") or {}).items()
        }
        remotes = _remotes(top)
        reader = _ProfileReader(keys, remotes)
        default_fields = signing.child("default", "SigningProfile")
        default = default_profile() if default_fields is None else reader.read("default", default_fields)
        if not default.is_remote and default.expiry == timedelta():
            raise invalid("profile default: expiry is zero")
        profiles = {}
        for name, value in (signing.mapping("profiles", "SigningProfile") or {}).items():
            if value is None:
                raise invalid(f"profile {name}: it is null")
            profile = reader.read(name, wire.Fields(value, "SigningProfile"))
            profiles[name] = _inherit(name, profile, default)
    except wire.JSONError as err:
        raise CodedError(Code.POLICY_INVALID, f"failed to unmarshal configuration: {err}") from err
    named = {"default": default, **profiles}
    doubts = [doubt for name, profile in named.items() for doubt in _doubts(name, profile)]
    doubts += repeated_keys([top, signing, *reader.objects])
    reader.unknown += [f"signing.{key}" for key in unknown_keys(signing, "default", "profiles")]
    reader.unknown += unknown_keys(top, "signing", "auth_keys", "remotes", "ocsp", "access")
    for name, value in (top.mapping("auth_keys", "AuthKey") or {}).items():
        below = wire.Fields(value, "AuthKey").strangers("type", "key")
        reader.unknown += [f"auth_keys.{shown(name)}: {key}" for key in below]
    return SigningConfig(
        default=default,
        profiles=profiles,
        auth_keys=keys,
        remotes=remotes,
        unknown=tuple(reader.unknown),
        doubts=tuple(doubts),
    )


def _unknown_below(profile: wire.Fields) -> list[str]:
    """Return the unknown keys of the objects inside a profile."""
    found = []
    for name, known in _KEYS_BELOW.items():
        child = profile.child(name, name)
        found += [f"{name}.{key}" for key in unknown_keys(child, *known)] if child is not None else []
    for policy in profile.items("policies", "CertificatePolicy"):
        found += [f"policies.{key}" for key in policy.strangers("ID", "Qualifiers")]
        for qualifier in policy.items("Qualifiers", "CertificatePolicyQualifier"):
            found += [f"policies.Qualifiers.{key}" for key in qualifier.strangers("Type", "Value")]
    return found


def _doubts(name: str, profile: Profile) -> list[str]:
    """Return the settings of a profile that CFSSL accepts silently but verifiers reject, or cannot check."""
    found = [
        f"profile {name}: ct_log_keys has no key for {shown(log.url)}: its timestamps are not verified"
        for log in profile.ct_logs
        if not log.key_info
    ]
    signs = "cert sign" in (profile.usages or ())
    if profile.is_remote or signs == profile.ca_constraint.is_ca:
        return found
    if signs:
        found.append(
            f"profile {name}: cert sign without ca_constraint.is_ca: verifiers reject such certificates"
        )
    else:
        found.append(
            f"profile {name}: ca_constraint.is_ca without the usage cert sign: such a CA cannot issue"
        )
    return found


def _auth_key(name: str, fields: wire.Fields) -> AuthKey:
    kind = fields.string("type")
    if kind != "standard":
        # not shown: type and key may have been mixed up
        raise invalid(f"auth key {name}: unknown type; use standard")
    try:
        return parse_auth_key(fields.string("key"))
    except CodedError as err:
        raise invalid(f"auth key {name}: {err.message}") from err


def _remotes(top: wire.Fields) -> dict[str, str]:
    found = {}
    for name, value in (top.mapping("remotes", "string") or {}).items():
        if value is not None and not isinstance(value, str):
            raise wire.JSONError(
                f"json: cannot unmarshal {name} into Go struct field Config.remotes of type string"
            )
        found[name] = value or ""
    return found


def _inherit(name: str, profile: Profile, default: Profile) -> Profile:
    if not profile.is_remote and not profile.usages:
        raise invalid(f"profile {name}: no usages")
    if not profile.is_remote and not profile.parsed_usages():
        words = ", ".join(profile.parsed_usages().unknown)
        raise invalid(f"profile {name}: none of its usages is valid: {words[:200]}")
    return replace(
        profile,
        expiry=profile.expiry or default.expiry,
        crl_url=profile.crl_url or default.crl_url,
        ocsp_url=profile.ocsp_url or default.ocsp_url,
        issuer_urls=default.issuer_urls if profile.issuer_urls is None else profile.issuer_urls,
    )


class _ProfileReader:
    """Reads profiles against the auth keys and remotes of one configuration."""

    def __init__(self, keys: Mapping[str, AuthKey], remotes: Mapping[str, str]) -> None:
        self._keys = keys
        self._remotes = remotes
        self.unknown: list[str] = []
        self.objects: list[wire.Fields] = []

    def read(self, name: str, fields: wire.Fields) -> Profile:
        """Read one profile; JSONError for a wrong type, CodedError 5200 for an invalid value."""
        try:
            self.objects.append(fields)
            check_go_internal(fields)
            go_fields = {key: nanoseconds(fields, key) for key in GO_DURATIONS}
            fields = fields.without(*GO_DURATIONS)
            self.unknown += [f"profile {name}: {key}" for key in unknown_keys(fields, *_PROFILE_KEYS)]
            self.unknown += [f"profile {name}: {key}" for key in _unknown_below(fields)]
            profile = self._remote(fields)
            ct_logs, level = _ct_logs(fields), _lint_level(fields)
            if not profile.is_remote:
                lint = _lint(fields, level)
                profile = replace(_validity(fields, profile), ct_logs=ct_logs, lint=lint)
            profile = replace(profile, backdate=profile.backdate or go_fields["Backdate"])
            return _rest(fields, self._authentication(fields, profile))
        except CodedError as err:
            raise invalid(f"profile {name}: {err.message}") from err

    def _key(self, name: str, what: str) -> AuthKey | None:
        if not name:
            return None
        if name not in self._keys:
            raise _wrong(f"{what} {shown(name)!r} is not in the auth_keys section")
        return self._keys[name]

    def _remote(self, fields: wire.Fields) -> Profile:
        name = fields.string("remote")
        auth = fields.child("auth_remote", "AuthRemote")
        auth_name = auth.string("remote") if auth else ""
        auth_key = auth.string("auth_key") if auth else ""
        if name and auth_name:
            raise _wrong("it has both remote and auth_remote")
        if auth_name and not auth_key:
            raise _wrong("auth_remote has no auth_key")
        if auth_key and not auth_name:
            raise _wrong("auth_remote has no remote")
        server = fields.string("RemoteServer")
        if name or auth_name:
            server = self._remotes.get(name or auth_name, "")
            if not server:
                raise _wrong(f"remote {shown(name or auth_name)!r} is not in the remotes section")
        key = self._key(auth_key, "auth_remote's auth_key")
        auth_remote = None if key is None else AuthRemote(remote=auth_name, key=key)
        return Profile(remote=name, remote_server=server, auth_remote=auth_remote)

    def _authentication(self, fields: wire.Fields, profile: Profile) -> Profile:
        return replace(
            profile,
            auth_key=self._key(fields.string("auth_key"), "auth_key"),
            prev_auth_key=self._key(fields.string("prev_auth_key"), "prev_auth_key"),
        )


def _wrong(text: str) -> CodedError:
    return CodedError(Code.POLICY_INVALID, text)


def _ct_logs(fields: wire.Fields) -> tuple[CTLog, ...]:
    servers = fields.strings("ct_log_servers") or []
    keys = fields.mapping("ct_log_keys", "string") or {}
    for name, value in keys.items():
        if value is not None and not isinstance(value, str):
            raise wire.JSONError(f"json: cannot unmarshal ct_log_keys {shown(name)} into a string")
    if not servers and not keys:
        return ()
    from ocspd.pki.ct import parse_logs  # noqa: PLC0415  (not every configuration has logs)

    try:
        return parse_logs(servers, {name: value or "" for name, value in keys.items()})
    except DERError as err:
        raise _wrong(str(err)) from None


def _lint(fields: wire.Fields, level: int) -> LintPolicy | None:
    ignored = fields.strings("ignored_lints") or []
    sources = fields.strings("ignored_lint_sources") or []
    if not level and not ignored and not sources:
        return None
    from ocspd.pki.lint import parse_policy  # noqa: PLC0415  (not every configuration lints)

    return parse_policy(level, ignored, sources)


def _lint_level(fields: wire.Fields) -> int:
    """Read `lint_error_level`: one of zlint's words, as for CFSSL, or its number.

    0 and null are refused as by CFSSL, which takes no number at all: leave it out to switch linting off.
    """
    if not fields.has("lint_error_level"):
        return 0
    value = fields.get("lint_error_level")
    if isinstance(value, str) and value in LINT_LEVELS:
        return LINT_LEVELS[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < len(LINT_LEVELS):
        return value
    words = ", ".join(LINT_LEVELS)
    text = shown(wire.dumps(value), 40)
    raise wire.JSONError(f"bad LintStatus JSON value: {text}: lint_error_level is one of {words}")


def _duration(fields: wire.Fields, key: str) -> tuple[timedelta, str]:
    text = fields.string(key)
    if not text:
        return timedelta(), ""
    try:
        return wire.parse_duration(text), text
    except (wire.DurationError, OverflowError) as err:
        raise _wrong(f"{key}: {err}") from err


def _validity(fields: wire.Fields, profile: Profile) -> Profile:
    expiry, text = _duration(fields, "expiry")
    if not text:
        raise _wrong('empty expiry string: write for example "expiry": "8760h"')
    backdate, _ = _duration(fields, "backdate")
    if expiry < timedelta():
        raise _wrong(f"expiry {text} is negative")
    not_before, not_after = _time(fields, "not_before"), _time(fields, "not_after")
    if not_before and not_after and not_after <= not_before:
        raise _wrong("not_after is not later than not_before")
    return replace(
        profile,
        expiry=expiry,
        expiry_text=text,
        backdate=backdate,
        not_before=not_before,
        not_after=not_after,
    )


def _time(fields: wire.Fields, key: str) -> datetime | None:
    text = fields.string(key)
    if not text:
        return None
    try:
        value = datetime.fromisoformat(text)
        if not _RFC_3339.fullmatch(text):  # Python reads more, week dates for example
            raise ValueError(text)  # noqa: TRY301  (one text for every form that is not RFC 3339)
        return value.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _wrong(f"{key}: {shown(text, 40)!r} is not a time like 2006-01-02T15:04:05Z") from None


def _rest(fields: wire.Fields, profile: Profile) -> Profile:
    usages, issuer_urls = fields.strings("usages"), fields.strings("issuer_urls")
    fields.string("cert_store")
    allowed = frozenset(fields.strings("allowed_extensions") or ())
    for oid in allowed:
        _check_oid("allowed_extensions", oid)
    if unknown := parse_usages(usages or ()).unknown:
        near = difflib.get_close_matches(unknown[0][:60], (*KEY_USAGES, *EXTENDED_KEY_USAGES), 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        words = ", ".join(unknown)
        raise _wrong(f"unknown usages: {shown(words)}{hint}")
    return replace(
        profile,
        usages=None if usages is None else tuple(usages),
        ca_constraint=_ca_constraint(fields.child("ca_constraint", "CAConstraint")),
        ocsp_url=fields.string("ocsp_url"),
        crl_url=fields.string("crl_url"),
        issuer_urls=None if issuer_urls is None else tuple(issuer_urls),
        ocsp_no_check=fields.boolean("ocsp_no_check"),
        policies=tuple(_policy(item) for item in fields.items("policies", "CertificatePolicy")),
        copy_extensions=fields.boolean("copy_extensions"),
        allowed_extensions=allowed,
        csr_whitelist=_csr_whitelist(_whitelist_fields(fields)),
        name_whitelist=_name_whitelist(fields),
        client_provides_serial=fields.boolean("ClientProvidesSerialNumbers"),
    )


def _ca_constraint(fields: wire.Fields | None) -> CAConstraint:
    if fields is None:
        return CAConstraint()
    return CAConstraint(
        is_ca=fields.boolean("is_ca"),
        max_path_len=fields.integer("max_path_len"),
        max_path_len_zero=fields.boolean("max_path_len_zero"),
    )


def _whitelist_fields(fields: wire.Fields) -> wire.Fields | None:
    """Return the object CSRWhitelist; CFSSL ignores csr_whitelist, the name that one expects."""
    found = [fields.child(key, "CSRWhitelist") for key in ("CSRWhitelist", "csr_whitelist")]
    if None not in found:
        raise _wrong("it has both CSRWhitelist and csr_whitelist: remove one")
    return found[0] or found[1]


def _csr_whitelist(fields: wire.Fields | None) -> CSRWhitelist | None:
    if fields is None:
        return None
    return CSRWhitelist(
        subject=fields.boolean("Subject"),
        public_key_algorithm=fields.boolean("PublicKeyAlgorithm"),
        public_key=fields.boolean("PublicKey"),
        signature_algorithm=fields.boolean("SignatureAlgorithm"),
        dns_names=fields.boolean("DNSNames"),
        ip_addresses=fields.boolean("IPAddresses"),
        email_addresses=fields.boolean("EmailAddresses"),
        uris=fields.boolean("URIs"),
    )


def _policy(fields: wire.Fields) -> tuple[str, tuple[tuple[str, str], ...]]:
    oid = fields.string("ID")
    _check_oid("policies", oid)
    qualifiers = []
    for item in fields.items("Qualifiers", "CertificatePolicyQualifier"):
        kind, value = item.string("Type"), item.string("Value")
        if kind not in _QUALIFIERS:
            raise _wrong(f"invalid policy qualifier type {shown(kind, 40)!r}: use {' or '.join(_QUALIFIERS)}")
        if kind == "id-qt-cps" and not value.isascii():
            raise _wrong(f"policy {oid}: a CPS URI must be ASCII")
        qualifiers.append((kind, value))
    return oid, tuple(qualifiers)


def _check_oid(where: str, oid: str) -> None:
    if not names.is_oid(oid):
        raise _wrong(f"{where}: {shown(oid, 60)!r} is not an object identifier such as 1.2.3.4")


def _name_whitelist(fields: wire.Fields) -> str:
    """Read name_whitelist, or NameWhitelist, the field of Go's that CFSSL keeps the expression in."""
    pattern, go_pattern = fields.string("name_whitelist"), fields.string("NameWhitelist")
    if pattern and go_pattern and pattern != go_pattern:
        raise _wrong("it has both name_whitelist and NameWhitelist: remove one")
    pattern = pattern or go_pattern
    if pattern:
        try:
            Pattern(pattern)
        except ConfigError as err:
            raise _wrong(f"name_whitelist: {err}") from None
    return pattern
