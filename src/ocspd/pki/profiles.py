"""The signing configuration (`-config`): profiles, authentication keys and remotes.

Reading follows CFSSL's rules and rejects what CFSSL rejects, with code 5200 and a text that names the
profile. A named profile inherits four things from the default one: expiry (when zero), crl_url, ocsp_url
and issuer_urls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.errors import Code, CodedError
from ocspd.pki.go_regexp import compiled
from ocspd.pki.usages import Usages, parse_usages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.pki.auth import AuthKey
    from ocspd.pki.ct import CTLog
    from ocspd.pki.lint import LintPolicy

DEFAULT_EXPIRY = "8760h"
DEFAULT_USAGES = ("signing", "key encipherment", "server auth", "client auth")
DEFAULT_BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CAConstraint:
    """`ca_constraint`: whether the profile issues CA certificates, and how long a path they may start."""

    is_ca: bool = False
    max_path_len: int = 0
    max_path_len_zero: bool = False

    def path_len(self) -> int | None:
        """Return pathLenConstraint, None for no limit; zero counts only with its own flag."""
        if self.max_path_len > 0:
            return self.max_path_len
        return 0 if self.max_path_len == 0 and self.max_path_len_zero else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CSRWhitelist:
    """`CSRWhitelist`: which parts of a request may reach the certificate."""

    subject: bool = False
    public_key_algorithm: bool = False
    public_key: bool = False
    signature_algorithm: bool = False
    dns_names: bool = False
    ip_addresses: bool = False
    email_addresses: bool = False
    uris: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRemote:
    """`auth_remote`: a remote signer, and the key its requests are authenticated with."""

    remote: str
    key: AuthKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The rules for certificates of one kind; `expiry_text` is as written, for `info`.

    `remote_server` is the address list of a remote signer, "" for a local profile.
    """

    usages: tuple[str, ...] | None = None
    expiry: timedelta = timedelta()
    expiry_text: str = ""
    backdate: timedelta = timedelta()
    not_before: datetime | None = None
    not_after: datetime | None = None
    ca_constraint: CAConstraint = CAConstraint()
    ocsp_url: str = ""
    crl_url: str = ""
    issuer_urls: tuple[str, ...] | None = None
    ocsp_no_check: bool = False
    policies: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    copy_extensions: bool = False
    allowed_extensions: frozenset[str] = frozenset()
    csr_whitelist: CSRWhitelist | None = None
    name_whitelist: str = ""
    auth_key: AuthKey | None = None
    prev_auth_key: AuthKey | None = None
    remote: str = ""
    remote_server: str = ""
    auth_remote: AuthRemote | None = None
    client_provides_serial: bool = False
    ct_logs: tuple[CTLog, ...] = ()
    lint: LintPolicy | None = None

    @property
    def is_remote(self) -> bool:
        """Whether another server signs for this profile."""
        return bool(self.remote_server)

    def parsed_usages(self) -> Usages:
        """Return the usages as bits and OIDs."""
        return parse_usages(self.usages or ())

    def allows_name(self, text: str) -> bool:
        """Return whether name_whitelist is absent or matches anywhere in the text."""
        return not self.name_whitelist or compiled(self.name_whitelist).is_in(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningConfig:
    """A signing configuration.

    For warnings, `unknown` has the keys that nothing reads and `doubts` the settings that will not verify.
    """

    default: Profile
    profiles: Mapping[str, Profile]
    auth_keys: Mapping[str, AuthKey]
    remotes: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def is_mixed(self) -> bool:
        """Whether some profiles are for signing here and some for remote signers."""
        return len({profile.is_remote for profile in (self.default, *self.profiles.values())}) > 1

    def profile(self, name: str) -> Profile:
        """Return a profile, the default one for an unknown or empty name, as CFSSL does.

        In a configuration with local and remote profiles an unknown name is CodedError 5400, as the
        request might be signed in the wrong place.
        """
        found = self.profiles.get(name)
        if found is not None:
            return found
        if name and self.is_mixed:
            raise CodedError(Code.POLICY_UNKNOWN_PROFILE, f"Unknown policy profile: {name[:100]}")
        return self.default

    @property
    def signs_here(self) -> bool:
        """Whether some profile is not signed for by another server."""
        return not all(profile.is_remote for profile in (self.default, *self.profiles.values()))

    def with_remote(self, addresses: str) -> SigningConfig:
        """Return the configuration with these servers signing for every profile (`-remote`)."""
        return replace(
            self,
            default=replace(self.default, remote_server=addresses),
            profiles={
                name: replace(profile, remote_server=addresses) for name, profile in self.profiles.items()
            },
        )


def default_profile() -> Profile:
    """Return CFSSL's built-in profile: a year, signing, key encipherment, server and client auth."""
    return Profile(
        usages=DEFAULT_USAGES, expiry=wire.parse_duration(DEFAULT_EXPIRY), expiry_text=DEFAULT_EXPIRY
    )


def default_config() -> SigningConfig:
    """Return the configuration that applies without `-config`."""
    return SigningConfig(default=default_profile(), profiles={}, auth_keys={}, remotes={})
