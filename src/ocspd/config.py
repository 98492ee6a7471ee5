"""`ocspd.toml`: what a signer daemon signs, for whom, and where to. Unknown keys are refused.

    db_config = "db-pg.json"         # CFSSL's database configuration; required unless files are given below
    crl = []                         # instead of a database: CRLs, complete and delta, DER or PEM
    allow_expired = false            # use CRLs past their nextUpdate
    index = "/var/lib/ocspd/index"   # index directory to keep fresh; required
    publish = []                     # URLs the index is also published to (s3://, gs://, az://, file://)
    processes = 0                    # signing processes of a pass; 0: one for each usable CPU
    pass_interval = "10m"            # pause between two looks at every certificate
    table = false                    # write the table ocsp_responses as well, as ocsprefresh does
    admin_address = "127.0.0.1"      # /metrics, /livez and /readyz
    admin_port = 9403                # 0: none

    [[issuer]]                       # once for each issuing CA; at least one
    ca = "ca.pem"                    # required
    responder = "ocsp.pem"           # required; the CA certificate itself for answers signed by the CA
    responder_key = "ocsp-key.pem"   # required
    validity = "96h"                 # nextUpdate - thisUpdate
    certid_hashes = ["sha1", "sha256"]
    responder_id = ""                # "key" or "name"; "": key, but name where the CA signs for itself
    embed_ca = false                 # embed the CA certificate as well
    refresh_after = 0.5              # the share of its life after which an answer is renewed, 0.1 to 0.9
    index_txt = []                   # instead of a database: index.txt of openssl ca
    serials = []                     # beside crl: lists of issued serials, which may be called good

Paths are relative to the file. Durations are Go's: `96h`, `10m`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from ocspd.errors import ConfigError, OCSPDError
from ocspd.wire import parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """The files and rules of one issuer, as in `[[issuer]]` above."""

    ca: str
    responder: str
    responder_key: str
    validity: timedelta = timedelta(hours=96)
    certid_hashes: tuple[str, ...] = ("sha1", "sha256")
    responder_id: str = ""
    embed_ca: bool = False
    refresh_after: float = 0.5
    index_txt: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """A signer daemon, as in the module's example."""

    index: str
    issuer: tuple[IssuerConfig, ...]
    db_config: str = ""
    crl: tuple[str, ...] = ()
    allow_expired: bool = False
    publish: tuple[str, ...] = ()
    processes: int = 0
    pass_interval: timedelta = timedelta(minutes=10)
    table: bool = False
    admin_address: str = "127.0.0.1"
    admin_port: int = field(default=9403)

    @property
    def from_files(self) -> bool:
        """Whether files are named that say the status of certificates."""
        return bool(self.crl) or any(issuer.index_txt or issuer.serials for issuer in self.issuer)

    def check_source(self, where: str) -> None:
        """ConfigError unless there is one source of certificates' status: a database or files."""
        if not self.db_config and not self.from_files:
            raise ConfigError(f"{where}: needs db_config, or files: crl, index_txt or serials")
        if self.db_config and self.from_files:
            raise ConfigError(f"{where}: has db_config and files (crl, index_txt or serials): use either")
        if self.table and self.from_files:
            raise ConfigError(f"{where}: table = true needs db_config")


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
        raise ConfigError(f"{path}: not usable: lists or tables are nested too deep") from None
    except ValueError as err:  # an integer beyond Python's own limit of digits
        raise ConfigError(f"{path}: not TOML: a number has too many digits") from err
    issuers = value.pop("issuer", [])
    base = path.parent
    top = _read(value, SignerConfig, str(path), base, without=("issuer",))
    if isinstance(issuers, dict):
        raise ConfigError(f"{path}: write [[issuer]] with two brackets: there may be several")
    if not isinstance(issuers, list) or not issuers or not all(isinstance(entry, dict) for entry in issuers):
        raise ConfigError(f"{path}: needs at least one [[issuer]]")
    config = SignerConfig(
        **top,
        issuer=tuple(
            IssuerConfig(**_read(entry, IssuerConfig, f"{path}: issuer {number}", base))
            for number, entry in enumerate(issuers, 1)
        ),
    )
    config.check_source(str(path))
    return config


_REQUIRED = {"index", "ca", "responder", "responder_key"}
_PATHS = {*_REQUIRED, "db_config"}
_PATH_LISTS = {"crl", "index_txt", "serials"}
_RANGES = {"refresh_after": (0.1, 0.9), "processes": (0, 1024), "admin_port": (0, 65535)}


def _read(
    value: dict[str, Any], kind: type, where: str, base: Path, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    known = {entry.name: str(entry.type) for entry in fields(kind) if entry.name not in without}
    for key in value:
        if key not in known:
            tables = [f"[[{name}]]" for name in without]
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join([*known, *tables])}")
    result: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in known and entry.name not in value:
            if entry.name in _REQUIRED:
                raise ConfigError(f"{where}: needs {entry.name}")
            continue
        if entry.name in known:
            result[entry.name] = _convert(value[entry.name], known[entry.name], f"{where}: {entry.name}")
            if entry.name in _PATHS:
                result[entry.name] = str(base / result[entry.name])
            if entry.name in _PATH_LISTS:
                result[entry.name] = tuple(str(base / name) for name in result[entry.name])
            low, high = _RANGES.get(entry.name, (None, None))
            if low is not None and high is not None and not low <= result[entry.name] <= high:
                raise ConfigError(f"{where}: {entry.name} = {result[entry.name]}: use {low} to {high}")
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
                duration = parse_duration(value)
            except OCSPDError as err:
                raise ConfigError(f"{where}: {err}; write a duration such as 96h or 10m") from err
            if duration <= timedelta():
                raise ConfigError(f"{where}: {value!r}: use a duration above zero, such as 96h or 10m")
            return duration
    names = {"str": "a text", "bool": "true or false", "int": "a number", "float": "a number"}
    wanted = names.get(kind, "a duration such as 96h" if kind == "timedelta" else "a list of texts")
    raise ConfigError(f"{where} = {value!r}: must be {wanted}")
