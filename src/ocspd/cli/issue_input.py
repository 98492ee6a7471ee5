"""What the issuing verbs read (CSR JSON, keys, certificates, arguments) and how they print results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.cli.io import load_config, print_json, read_input
from ocspd.cli.verb import no_more_arguments
from ocspd.client.tls import RemoteTLS
from ocspd.config import AuthorityConfig
from ocspd.errors import OCSPDError
from ocspd.inputs import naming
from ocspd.logs import logger
from ocspd.pki.csr import CertificateRequest, parse_request
from ocspd.pki.profiles import default_config

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


def authority_config(flags: Flags) -> AuthorityConfig:
    """Return who signs certificates: what -config says, or with -remote always that server."""
    signing = signing_config(flags) or default_config()
    if flags.string("remote"):
        signing = signing.with_remote(flags.string("remote"))
    return AuthorityConfig(
        signing=signing,
        ca=flags.string("ca"),
        ca_key=flags.string("ca-key"),
        allow_rsa_1024=flags.boolean("allow-rsa-1024"),
        tls=RemoteTLS(
            ca_file=flags.string("tls-remote-ca"),
            certificate_file=flags.string("mutual-tls-client-cert"),
            key_file=flags.string("mutual-tls-client-key"),
        ),
    )


def hosts_of(flags: Flags) -> tuple[str, ...] | None:
    """Return the hosts of -hostname, split at commas and not trimmed; None without the flag."""
    text = flags.string("hostname")
    return tuple(text.split(",")) if text else None


def print_result(*, cert: str = "", csr: str = "", key: str = "") -> None:
    """Print CFSSL's object with those of cert, csr and key that exist."""
    members = {"cert": cert, "csr": csr, "key": key}
    print_json({name: text for name, text in members.items() if text})
