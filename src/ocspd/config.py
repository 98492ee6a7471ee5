"""`ocspd.toml`: what a signer daemon signs, for which issuers, and where the responses go.

This module is the manual of the file. The keys of `SignerConfig` come first, then one `[[issuer]]` table for
each issuing CA, with the keys of `IssuerConfig`. `deploy/ocspd.toml` is an example with every key. Unknown
keys are errors. Paths are relative to the file. Durations are written as in Go: `96h`, `10m`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocspd import limits
from ocspd.errors import ConfigError, OCSPDError
from ocspd.pki.signing_policy import SigningPolicy
from ocspd.shown import shown
from ocspd.wire import MAX_DURATION, DurationTooLongError, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ocspd.authority.access.policy import Policy
    from ocspd.authority.bundling_stores import StoreFiles
    from ocspd.authority.crls import CRLSettings
    from ocspd.authority.tls import ServerTLS
    from ocspd.client.tls import RemoteTLS
    from ocspd.limits import Range
    from ocspd.pki.profiles import SigningConfig
    from ocspd.signer.signer_files import SignerFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One `[[issuer]]` table: an issuing CA and how responses about its certificates are signed."""

    ca: str
    """The CA certificate, PEM or DER. Required.

    A CA whose key is used under two names (renamed, cross-certified) has one table for each certificate.
    """
    responder: str
    """The responder certificate: issued by `ca` with the extended key usage OCSPSigning. Required.

    Name the CA certificate itself when the CA signs its own responses. A replaced file is checked and then
    used without a restart; one that cannot be used is reported, and the previous certificate stays in use.
    """
    responder_key: str
    """The private key of `responder`, PEM. Required. Set CFSSL_CA_PK_PASSWORD if it is encrypted."""
    validity: timedelta = timedelta(hours=96)
    """How long a response is valid, 61s to 87600h.

    It limits both how long responders can continue without a signer and how long an old "good" can be
    replayed. nextUpdate is never later than the end of `responder`, nor than nextUpdate of the CRL used.
    """
    certid_hashes: tuple[str, ...] = ("sha1", "sha256")
    """The CertID hash algorithms to sign for: "sha1", "sha256", "sha384", "sha512".

    Clients accept only the one they requested. Each costs one more signature and one more index entry
    per certificate.
    """
    responder_id: str = ""
    """How responses name their signer: "key" or "name" (RFC 6960 §4.2.2.3).

    By default "key", but "name" if the CA signs its own responses, as GnuTLS finds a CA only by its name.
    """
    embed_ca: bool = False
    """Whether the CA certificate is embedded as well.

    Servers need it that staple responses but send only the leaf certificate. It is stored once per
    segment, but adds its size to every reply.
    """
    refresh_after: float = 0.5
    """The share of its validity after which a response is renewed at the latest, 0.1 to 0.9.

    Each is renewed up to a quarter of the validity earlier, so that they are not all due at once: with the
    defaults 24 to 48 h after it was signed. A signer may then be away for 48 h before the first response
    expires. A lower value leaves more time for repairs and signs more often. Renewal is never later than
    8 h before nextUpdate or 4 days after thisUpdate (Baseline Requirements §4.9.9).
    """
    index_txt: tuple[str, ...] = ()
    """Instead of `db_config`: databases of `openssl ca` (index.txt) with this CA's certificates."""
    serials: tuple[str, ...] = ()
    """With `crl` or `index_txt`: lists of issued serial numbers, one per line.

    A certificate listed here is good unless it is revoked; a CRL alone makes no certificate good.
    """

    def policy(self, this_update_step: timedelta) -> SigningPolicy:
        """Return how this issuer's responses are to be made; thisUpdate is truncated to the step."""
        return SigningPolicy(
            validity=self.validity,
            certid_hashes=self.certid_hashes,
            responder_id=self.responder_id,
            embed_ca=self.embed_ca,
            this_update_step=this_update_step,
            refresh_after=self.refresh_after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """The top of `ocspd.toml`: where statuses come from and where responses go."""

    index: str
    """The index directory to keep up to date; created if missing. Required. One signer per directory."""
    issuer: tuple[IssuerConfig, ...]
    """The `[[issuer]]` tables, at least one."""
    db_config: str = ""
    """CFSSL's database configuration (JSON). Required, unless `crl`, `index_txt` or `serials` name files."""
    crl: tuple[str, ...] = ()
    """Instead of `db_config`: CRLs, complete and delta, DER or PEM, each matched to its issuer by name and
    signature. A file is read again when it changes."""
    allow_expired: bool = False
    """Whether CRLs past their nextUpdate are used; otherwise they are rejected."""
    publish: tuple[str, ...] = ()
    """URLs to copy the index to: s3://, gs://, az://, file:// (docs/distribution.md). One signer per URL."""
    processes: int = 0
    """How many processes sign during a pass, 0 to 1024; 0 is one for each CPU the signer may use.

    They run at the lowest priority. Set it to keep CPUs free on a machine that is never idle.
    """
    pass_interval: timedelta = timedelta(minutes=10)
    """The pause between two passes over all certificates, 1ms to 8760h.

    Changes do not wait for a pass. The pause is at least nine times as long as the previous pass, so that
    passes take at most a tenth of the time.
    """
    table: bool = False
    """Whether responses are written to the table `ocsp_responses` as well, as `ocsprefresh` does."""
    admin_address: str = "127.0.0.1"
    """Where /metrics, /livez, /readyz and /healthz listen; keep it away from clients."""
    admin_port: int = 9403
    """The TCP port for them, 0 to 65535; 0 means none."""

    @property
    def from_files(self) -> bool:
        """Whether statuses come from files instead of a database."""
        return bool(self.crl) or any(issuer.index_txt or issuer.serials for issuer in self.issuer)

    def check_source(self, where: str) -> None:
        """Raise ConfigError unless there is exactly one source of statuses: a database or files."""
        if not self.db_config and not self.from_files:
            raise ConfigError(f"{where}: needs db_config, or files: crl, index_txt or serials")
        if self.db_config and self.from_files:
            raise ConfigError(
                f"{where}: has both db_config and files (crl, index_txt or serials): use one of them"
            )
        if self.table and self.from_files:
            raise ConfigError(f"{where}: table = true requires db_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityConfig:
    """Who signs certificates: the CA of `ca` and `ca_key`, or another server where a profile says so."""

    signing: SigningConfig
    ca: str
    ca_key: str
    allow_rsa_1024: bool
    tls: RemoteTLS
    """TLS towards other servers."""

    def required_ca(self) -> tuple[str, str]:
        """Return names of CA certificate and key; OCSPDError naming the one that is missing."""
        if not self.ca:
            raise OCSPDError("need a CA certificate (provide one with -ca)")
        if not self.ca_key:
            raise OCSPDError("need a CA key (provide one with -ca-key)")
        return self.ca, self.ca_key


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlerConfig:
    """What bundles are built from."""

    files: StoreFiles
    fetch_issuers: bool
    """Whether issuers in no store are fetched from the URLs in certificates."""
    allow_private: bool
    """Whether connections may go to addresses that are not public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class APIConfig:
    """CFSSL's HTTP API as `ocspd serve` has it; its flags are explained by `ocspd serve -h`."""

    authority: Callable[[], AuthorityConfig]
    """Reads the signing configuration, at the start and on every reload."""
    ocsp: Callable[[], SignerFiles] | None
    """Says, at the same times, who signs what ocspsign asks for; None for nobody."""
    db_config: str
    disabled: tuple[str, ...]
    """Endpoints that are switched off."""
    tls: ServerTLS
    crls: CRLSettings
    """How the CRLs served at /crl are made."""
    admin: tuple[str, int]
    """Address and port of the admin listener; port 0: none."""
    read: tuple[str, ...]
    """The flags whose files a reload reads, for the log."""
    access: Callable[[], Policy | None]
    """Reads who may do what, at the same times; None if everybody may do everything, as with CFSSL."""
    rate_limit: int
    """Requests a second of one client; 0 for no limit."""
    audit_log: str
    """The file of the audit log; "" for none."""
    audit_key: str
    """The key of its checkpoints; "" for one beside it."""
    audit_rotate_mb: int
    """The size at which it is renamed, in MiB; 0 for never."""
    files: Callable[[], Mapping[str, str]]
    """Returns the SHA-256 of each file that a reload reads, but not of keys, for the audit log."""
    bundler: BundlerConfig
    workers: int = 0
    """Processes that sign; 0: one for each usable CPU. With one alone this process signs, in threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiRootConfig:
    """What `multirootca` serves; its flags are explained by `ocspd multirootca -h`."""

    roots: str
    """The file that names the CAs (`authority.multiroot_config`)."""
    default_label: str
    """The CA for requests without a label; "" for none."""
    allow_rsa_1024: bool
    tls: ServerTLS


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderConfig:
    """What `ocspserve` serves and how; its flags are explained by `ocspd ocspserve -h`."""

    address: str
    port: int
    path: str
    responses: str
    """A dump (base64) to answer from; "" for none. It comes before `index`, and that before `db_config`."""
    index: str
    """An index directory, or the URL of one to pull."""
    index_cache: str
    index_poll: timedelta
    db_config: str
    issuers: tuple[IssuerConfig, ...] = ()
    """With `db_config`: who signs here what the database says."""
    max_age: timedelta
    workers: int
    """0 is one for each CPU."""
    max_expired: int
    """In percent."""
    admin_address: str
    admin_port: int
    admin_wanted: bool
    """Whether these were asked for, so that not to have them is an error."""
    drain_delay: timedelta
    drain_timeout: timedelta
    loglevel: int

    @property
    def source(self) -> str:
        """The name of the field that says where responses come from; "" when none does."""
        return next((name for name in ("responses", "index", "db_config") if getattr(self, name)), "")


def load_signer_config(path: str | Path) -> SignerConfig:
    """Read an `ocspd.toml`; ConfigError naming file, key and remedy when it cannot be used."""
    path = Path(path)
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: cannot read: {err.strerror}") from err
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path}: not TOML: {err}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not TOML: not UTF-8 at byte {err.start}") from err
    except RecursionError:
        raise ConfigError(f"{path}: lists or tables are nested too deeply") from None
    except ValueError as err:  # an integer beyond Python's own limit of digits
        raise ConfigError(f"{path}: not TOML: a number has too many digits") from err
    issuers = value.pop("issuer", [])
    base = path.parent
    top = _read(value, SignerConfig, str(path), base, without=("issuer",))
    if isinstance(issuers, dict):
        raise ConfigError(f"{path}: write [[issuer]] with double brackets: there may be several")
    if not isinstance(issuers, list) or not issuers or not all(isinstance(entry, dict) for entry in issuers):
        raise ConfigError(f"{path}: at least one [[issuer]] is required")
    config = SignerConfig(
        **top,
        issuer=tuple(
            IssuerConfig(**_read(entry, IssuerConfig, f"{path}: issuer {position}", base))
            for position, entry in enumerate(issuers, 1)
        ),
    )
    config.check_source(str(path))
    return config


_REQUIRED = {"index", "ca", "responder", "responder_key"}
_PATHS = {*_REQUIRED, "db_config"}
_PATH_LISTS = {"crl", "index_txt", "serials"}
_RANGES: dict[str, Range[Any]] = {
    "validity": limits.VALIDITY,
    "refresh_after": limits.REFRESH_AFTER,
    "processes": limits.PROCESSES,
    "pass_interval": limits.PASS_INTERVAL,
    "admin_port": limits.ADMIN_PORT,
}


def _read(
    value: dict[str, Any], kind: type, where: str, base: Path, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    known = {entry.name: str(entry.type) for entry in fields(kind) if entry.name not in without}
    for key in value:
        if key not in known:
            tables = [f"[[{name}]]" for name in without]
            raise ConfigError(f"{where}: unknown key {key!r}; use one of {', '.join([*known, *tables])}")
    result: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in known and entry.name not in value:
            if entry.name in _REQUIRED:
                raise ConfigError(f"{where}: {entry.name} is missing")
            continue
        if entry.name in known:
            result[entry.name] = _convert(value[entry.name], known[entry.name], f"{where}: {entry.name}")
            if entry.name in _PATHS:
                result[entry.name] = str(base / result[entry.name])
            if entry.name in _PATH_LISTS:
                result[entry.name] = tuple(str(base / name) for name in result[entry.name])
            if entry.name in _RANGES and result[entry.name] not in _RANGES[entry.name]:
                text = shown(str(value[entry.name]))
                raise ConfigError(f"{where}: {entry.name} = {text}: use {_RANGES[entry.name]}")
    return result


def _convert(value: Any, kind: str, where: str) -> Any:
    match kind, value:
        case "str", str() if value or where.endswith(": responder_id"):  # "" is its default
            return value
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool):
            return value
        case "float", float() | int() if not isinstance(value, bool):
            return float(value)
        case "tuple[str, ...]", list() if all(isinstance(entry, str) and entry for entry in value):
            return tuple(value)
        case "timedelta", str():
            try:
                return parse_duration(value)
            except DurationTooLongError:
                return MAX_DURATION
            except OCSPDError as err:
                raise ConfigError(f"{where}: {err}; write a duration such as 96h or 10m") from err
    names = {"str": "a text", "bool": "true or false", "int": "a number", "float": "a number"}
    wanted = names.get(kind, "a duration such as 96h" if kind == "timedelta" else "a list of texts")
    raise ConfigError(f"{where} = {value!r}: must be {wanted}")
