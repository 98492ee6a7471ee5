"""`ocspd.toml`: what a signer daemon signs, for whom, and where to. Unknown keys are refused.

    db_config = "db-pg.json"         # CFSSL's database configuration; required
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
    responder_id = "key"             # or "name"
    refresh_after = 0.5              # the share of its life after which an answer is renewed, 0.1 to 0.9

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
    responder_id: str = "key"
    refresh_after: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """A signer daemon, as in the module's example."""

    db_config: str
    index: str
    issuer: tuple[IssuerConfig, ...]
    publish: tuple[str, ...] = ()
    processes: int = 0
    pass_interval: timedelta = timedelta(minutes=10)
    table: bool = False
    admin_address: str = "127.0.0.1"
    admin_port: int = field(default=9403)


def load_signer_config(path: str | Path) -> SignerConfig:
    """Read an `ocspd.toml`; ConfigError naming file, key and remedy when it cannot be used."""
    path = Path(path)
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: cannot read: {err.strerror}") from err
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"{path}: not TOML: {err}") from err
    issuers = value.pop("issuer", [])
    if not isinstance(issuers, list) or not issuers or not all(isinstance(entry, dict) for entry in issuers):
        raise ConfigError(f"{path}: needs at least one [[issuer]]")
    base = path.parent
    top = _read(value, SignerConfig, str(path), base, without=("issuer",))
    return SignerConfig(
        **top,
        issuer=tuple(
            IssuerConfig(**_read(entry, IssuerConfig, f"{path}: issuer {number}", base))
            for number, entry in enumerate(issuers, 1)
        ),
    )


_PATHS = {"db_config", "index", "ca", "responder", "responder_key"}
_RANGES = {"refresh_after": (0.1, 0.9), "processes": (0, 1024), "admin_port": (0, 65535)}


def _read(
    value: dict[str, Any], kind: type, where: str, base: Path, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    known = {entry.name: str(entry.type) for entry in fields(kind) if entry.name not in without}
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
    result: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in known and entry.name not in value:
            if entry.name in _PATHS:
                raise ConfigError(f"{where}: needs {entry.name}")
            continue
        if entry.name in known:
            result[entry.name] = _convert(value[entry.name], known[entry.name], f"{where}: {entry.name}")
            if entry.name in _PATHS:
                result[entry.name] = str(base / result[entry.name])
            low, high = _RANGES.get(entry.name, (None, None))
            if low is not None and high is not None and not low <= result[entry.name] <= high:
                raise ConfigError(f"{where}: {entry.name} = {result[entry.name]}: use {low} to {high}")
    return result


def _convert(value: Any, kind: str, where: str) -> Any:
    match kind, value:
        case "str", str() if value:
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
