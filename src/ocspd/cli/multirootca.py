"""The verb `multirootca`: CFSSL's signer for several CAs, each with its own keys for clients."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ocspd.cli.flags import string
from ocspd.cli.shared_flags import ALLOW_RSA_1024
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError
from ocspd.shown import shown

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags

_MAX_PORT = 65535


def listen_address(text: str) -> tuple[str, int]:
    """Return host ("" for every interface) and port of Go's `host:port`; the port may be a service's name."""
    host, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and int(port[:6]) <= _MAX_PORT:
        return host.strip("[]"), int(port)
    try:
        return host.strip("[]"), socket.getservbyname(port, "tcp") if colon and port else int("")
    except (OSError, ValueError):
        raise ConfigError(f"-a {shown(text)!r}: write host:port, or :port for every interface") from None


def _multirootca(flags: Flags, arguments: list[str]) -> None:
    from ocspd.cli.loop import run_uvloop  # noqa: PLC0415  (not needed for help)

    no_more_arguments(arguments)
    if not flags.string("roots"):
        raise ConfigError("no root file specified (provide one with -roots)")
    run_uvloop(_main(flags, *listen_address(flags.string("a"))))


async def _main(flags: Flags, address: str, port: int) -> None:
    # Not needed for help.
    from ocspd.app import build_multiroot  # noqa: PLC0415
    from ocspd.authority.tls import ServerTLS  # noqa: PLC0415
    from ocspd.config import MultiRootConfig  # noqa: PLC0415

    config = MultiRootConfig(
        roots=flags.string("roots"),
        default_label=flags.string("l"),
        allow_rsa_1024=flags.boolean("allow-rsa-1024"),
        tls=ServerTLS(
            certificate_file=flags.string("tls-cert"),
            key_file=flags.string("tls-key"),
            client_ca_file=flags.string("mutual-tls-ca"),
            client_cn=flags.string("mutual-tls-cn"),
            min_version=flags.string("min-tls-version"),
        ),
    )
    async with build_multiroot(config, SystemClock()) as service:
        await service.run(address, port)


VERBS = (
    Verb(
        "multirootca",
        """ocspd multirootca -- run an authenticated signer for several CAs

Usage of multirootca:
        ocspd multirootca -roots file [-a address] [-l label] [-tls-cert cert] [-tls-key key] \\
                          [-mutual-tls-ca ca] [-mutual-tls-cn regex] [-min-tls-version version]

The roots file has a section for each CA; its name is the label that requests choose it by:
        [ primary ]
        private = file://primary-key.pem
        certificate = primary.pem
        config = primary-config.json
        nets = 10.0.0.0/8, 2001:db8::/32
        dbconfig = db.json
nets (who may use the CA) and dbconfig (where certificates are recorded) may be left out. Every profile
that can be used has an auth_key. Endpoints: authsign, info and /metrics.

Signals: SIGTERM and SIGINT stop, SIGHUP reads the roots file and all files it names again.""",
        (
            string("a", "listening address", ":8888"),
            string("roots", "configuration file specifying root keys"),
            string("l", "specify a default label"),
            string("tls-cert", "server certificate"),
            string("tls-key", "server private key"),
            "mutual-tls-ca",
            "mutual-tls-cn",
            "min-tls-version",
            ALLOW_RSA_1024,
        ),
        _multirootca,
        cfssl=False,
    ),
)
