"""What the issuing verbs read (CSR JSON, keys, certificates, arguments) and how they print results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.cli.io import load_config, print_json, read_input
from ocspd.errors import OCSPDError
from ocspd.inputs import naming
from ocspd.logs import logger
from ocspd.pki.csr import CertificateRequest, parse_request
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
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
