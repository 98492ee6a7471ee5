"""The certificates that bundles are built from: trusted roots, intermediates, and the stores of platforms.

Roots come from `-ca-bundle`, or from the system where that is not given. Intermediates come from
`-int-bundle` and from the directory `-int-dir`, where fetched ones are also written to. `-metadata` is a JSON
list of platforms:

    {"name": "Mozilla", "weight": 20, "hash_algo": "SHA2", "key_algo": "ECDSA256", "keystore": "nss.pem"}

with keystores relative to that file; a platform without one trusts every root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.errors import Code, CodedError, ConfigError, DERError, OCSPDError
from ocspd.inputs import read_file
from ocspd.logs import logger
from ocspd.pki import pem
from ocspd.pki.certs import load_certificates
from ocspd.pki.chain_link import Link
from ocspd.pki.chains import Pool
from ocspd.pki.ubiquity import HASH_SCORES, KEY_SCORES, Platform, key_digest
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.pki.certs import Certificate

MAX_STORED = 1000
"""Certificates that are read from the directory of intermediates."""

_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Go looks for the system's roots; the first one that exists counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFiles:
    """Where the stores are; "" for what is not given."""

    ca_bundle: str = ""
    int_bundle: str = ""
    int_dir: str = ""
    metadata: str = ""


@dataclass(slots=True)
class Stores:
    """What is known before a certificate is bundled. The system's roots are read when first needed."""

    given_roots: Pool | None
    intermediates: Pool
    platforms: Sequence[Platform] = ()
    directory: str = ""
    """Where fetched intermediates are written to; "" for nowhere."""
    _system: Pool | None = None

    def roots(self) -> Pool:
        """Return the trusted roots."""
        if self.given_roots is not None:
            return self.given_roots
        if self._system is None:
            self._system = _system_roots()
        return self._system


def load_stores(files: StoreFiles) -> Stores:
    """Read the stores; CodedError 4001, 4003, 3001 or 3003 for the first that cannot be used.

    ConfigError when it is the list of platforms or one of their keystores.
    """
    roots = None
    if files.ca_bundle:
        roots = Pool(_read_store(files.ca_bundle, Code.ROOT_READ_FAILED, Code.ROOT_PARSE_FAILED, "root"))
    intermediates = Pool()
    if files.int_bundle:
        codes = (Code.INTERMEDIATES_READ_FAILED, Code.INTERMEDIATES_PARSE_FAILED)
        intermediates = Pool(_read_store(files.int_bundle, *codes, "intermediate"))
    if files.int_dir:
        _read_directory(files.int_dir, intermediates)
    platforms = load_platforms(files.metadata) if files.metadata else ()
    return Stores(roots, intermediates, platforms, files.int_dir)


def _read_store(path: str, unreadable: Code, malformed: Code, what: str) -> list[Certificate]:
    try:
        data = read_file(path)
    except OCSPDError as err:
        logger.error("%s bundle failed to load: %s", what, err)
        raise CodedError(unreadable, str(err)) from err
    if not data.strip():
        return []
    try:
        return load_certificates(data)
    except CodedError as err:
        logger.error("failed to parse %s bundle: %s", what, err.message)
        raise CodedError(malformed, f"Failed to parse {what} certificate: {path}: {err.message}") from err


def _read_directory(path: str, pool: Pool) -> None:
    """Add the certificates of a directory, which is made if it does not exist; what is not one is skipped."""
    directory = Path(path)
    try:
        if not directory.exists():
            logger.info("intermediate stash directory %s doesn't exist, creating", shown(path))
            directory.mkdir(mode=0o755, parents=True)
        files = sorted(directory.glob("*.crt"))
    except OSError as err:
        raise ConfigError(
            f"{shown(path)}: cannot be used as directory of intermediates: {err.strerror}"
        ) from err
    for file in files[:MAX_STORED]:
        try:
            for certificate in load_certificates(read_file(str(file))):
                pool.add(Link(certificate))
        except OCSPDError as err:
            logger.warning("%s: skipped: %s", shown(str(file)), err)
    if len(files) > MAX_STORED:
        logger.warning("%s: only the first %d of %d files are read", shown(path), MAX_STORED, len(files))


def _system_roots() -> Pool:
    """Return the roots of the system, as Go finds them: SSL_CERT_FILE and SSL_CERT_DIR come first."""
    pool = Pool()
    named = os.environ.get("SSL_CERT_FILE", "")
    directories = [part for part in os.environ.get("SSL_CERT_DIR", "").split(":") if part]
    candidates = [named] if named else [path for path in _SYSTEM_FILES if Path(path).exists()][:1]
    for directory in directories:
        candidates += sorted(map(str, Path(directory).glob("*")))[:MAX_STORED]
    for path in candidates:
        try:
            data = read_file(path)
        except OCSPDError as err:
            logger.debug("%s", err)
            continue
        add_readable(pool, data)
    return pool


def add_readable(pool: Pool, data: bytes) -> None:
    """Add the certificates of a file to a pool, except those that cannot be read: old roots have oddities."""
    for block in pem.blocks(data):
        try:
            for certificate in load_certificates(block.text):
                pool.add(Link(certificate))
        except (CodedError, DERError):
            continue


def load_platforms(path: str) -> tuple[Platform, ...]:
    """Read a list of platforms with their keystores; ConfigError naming the file and the platform."""
    try:
        value = wire.loads(read_file(path))
    except wire.JSONError as err:
        raise ConfigError(f"platform metadata failed to parse: {path}: {err}") from err
    except OCSPDError as err:
        raise ConfigError(f"platform metadata failed to load: {err}") from err
    try:
        if not isinstance(value, list | None):
            raise wire.JSONError("write a list of platforms: [{...}, {...}]")  # noqa: TRY301  (one message below)
        return tuple(_platform(wire.Fields(each, "Platform"), Path(path).parent) for each in value or [])
    except wire.JSONError as err:
        raise ConfigError(f"platform metadata failed to parse: {path}: {err}") from err


def _platform(fields: wire.Fields, directory: Path) -> Platform:
    name = fields.string("name")
    hash_algorithm, key_algorithm = fields.string("hash_algo"), fields.string("key_algo")
    if hash_algorithm not in HASH_SCORES:
        raise wire.JSONError(f"platform {name!r}: hash_algo must be one of {', '.join(HASH_SCORES)}")
    if key_algorithm not in KEY_SCORES:
        raise wire.JSONError(f"platform {name!r}: key_algo must be one of {', '.join(KEY_SCORES)}")
    pool = Pool()
    keystore = fields.string("keystore")
    if keystore:
        try:
            add_readable(pool, read_file(str(directory / keystore)))
        except OCSPDError as err:
            raise ConfigError(f"platform metadata failed to load: platform {name!r}: {err}") from err
    keys = frozenset(map(key_digest, pool))
    logger.info("Platform metadata is loaded: %s %d", name, len(keys))
    return Platform(
        name=name,
        weight=fields.integer("weight"),
        hash_score=HASH_SCORES[hash_algorithm],
        key_score=KEY_SCORES[key_algorithm],
        keys=keys,
    )
