"""What the issuing verbs read (CSR JSON, keys, certificates, arguments) and how they print results."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ocspd.cli.io import (
    PASSWORD_VARIABLE,
    key_password,
    load_config,
    print_json,
    read_input,
    read_key_material,
)
from ocspd.errors import Code, CodedError, ConfigError, OCSPDError
from ocspd.logs import logger
from ocspd.pki.certs import load_certificate
from ocspd.pki.csr import CertificateRequest, parse_request
from ocspd.pki.keys import load_private_key
from ocspd.shown import shown
from ocspd.wire import JSONError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocspd.cli.flags import Flags
    from ocspd.pki.certs import Certificate
    from ocspd.pki.keys import PrivateKey
    from ocspd.pki.profiles import SigningConfig

NOT_ENOUGH = "not enough arguments are supplied --- please refer to the usage"


def only_argument(arguments: list[str]) -> str:
    """Return the single positional argument; OCSPDError for none or several."""
    if not arguments:
        raise OCSPDError(NOT_ENOUGH)
    no_more_arguments(arguments[1:])
    return arguments[0]


def no_more_arguments(arguments: list[str]) -> None:
    """Reject positional arguments that would be ignored."""
    if arguments:
        raise OCSPDError(f"unexpected argument {shown(arguments[0])!r}: did a flag lose its dash?")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Prefix errors about the content of a file with its name."""
    shown = "standard input" if name == "-" else name
    try:
        yield
    except CodedError as err:
        raise CodedError(err.code, f"{shown}: {err.message}") from err
    except JSONError as err:
        raise ConfigError(f"{shown}: {err}") from err


def read_request(name: str) -> CertificateRequest:
    """Read CSR JSON from a file or, for `-`, standard input; warn of unknown keys."""
    data = read_input(name)
    with naming(name):
        request = parse_request(data)
    if request.unknown:
        logger.warning("%s: ignoring unknown keys: %s", name, ", ".join(request.unknown)[:300])
    return request


def signing_config(flags: Flags) -> SigningConfig | None:
    """Return the configuration of -config, or None; warn of unknown keys."""
    config = load_config(flags)
    if config is not None and config.unknown:
        unknown = ", ".join(config.unknown)[:300]
        logger.warning("%s: ignoring unknown keys: %s", flags.string("config"), unknown)
    for doubt in () if config is None else config.doubts:
        logger.warning("%s: %s", flags.string("config"), doubt)
    return config


def read_key(spec: str) -> PrivateKey:
    """Load a private key given as path, file: or env:; the password is in CFSSL_CA_PK_PASSWORD."""
    return parse_key(spec, read_key_material(spec))


def parse_key(spec: str, data: bytes) -> PrivateKey:
    """Load a private key that was read from spec."""
    with naming(spec):
        try:
            return load_private_key(data, key_password())
        except CodedError as err:
            if err.code is Code.KEY_ENCRYPTED:
                remedy = f"{err.message} Set {PASSWORD_VARIABLE} to its password"
                raise CodedError(err.code, remedy) from err
            raise


def read_certificate(spec: str) -> Certificate:
    """Load a certificate given as path, file: or env:."""
    data = read_key_material(spec)
    with naming(spec):
        return load_certificate(data)


def require_ca(flags: Flags) -> tuple[str, str]:
    """Return -ca and -ca-key; OCSPDError naming the one that is missing."""
    if not flags.string("ca"):
        raise OCSPDError("need a CA certificate (provide one with -ca)")
    if not flags.string("ca-key"):
        raise OCSPDError("need a CA key (provide one with -ca-key)")
    return flags.string("ca"), flags.string("ca-key")


def hosts_of(flags: Flags) -> tuple[str, ...] | None:
    """Return the hosts of -hostname, split at commas and not trimmed; None without the flag."""
    text = flags.string("hostname")
    return tuple(text.split(",")) if text else None


def print_result(*, cert: str = "", csr: str = "", key: str = "") -> None:
    """Print CFSSL's object with those of cert, csr and key that exist."""
    members = {"cert": cert, "csr": csr, "key": key}
    print_json({name: text for name, text in members.items() if text})
