"""The verb `certinfo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError
from ocspd.inputs import naming

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ocspd.cli.flags import Flags
    from ocspd.pki.certs import Certificate


def _certinfo(flags: Flags, arguments: list[str]) -> Awaitable[None] | None:
    no_more_arguments(arguments)
    if flags.string("cert"):
        _print(_certificate_in(flags.string("cert")))
    elif flags.string("csr"):
        _print_request(flags.string("csr"))
    elif flags.string("domain"):
        _print(_certificate_of(flags.string("domain")))
    elif flags.string("serial") and flags.string("aki"):
        if not flags.string("db-config"):
            raise ConfigError("need DB config file (provide with -db-config)")
        return _print_stored(flags)
    else:
        raise ConfigError("Must specify certinfo target through -cert, -csr, -domain or -serial + -aki")
    return None


def _certificate_in(name: str) -> Certificate:
    from ocspd.pki.certs import load_certificate  # noqa: PLC0415  (cryptography, not for help)

    data = read_input(name)
    with naming(name):
        return load_certificate(data)


def _certificate_of(domain: str) -> Certificate:
    from ocspd.authority.certinfo import served_certificate  # noqa: PLC0415  (as above)
    from ocspd.authority.fetching import Outbound  # noqa: PLC0415  (as above)

    return served_certificate(domain, Outbound(allow_private=True))


def _print(certificate: Certificate) -> None:
    from ocspd import wire  # noqa: PLC0415  (as above)
    from ocspd.authority.certinfo import describe  # noqa: PLC0415  (as above)

    write_stdout(wire.dumps_indented(describe(certificate)) + "\n")


def _print_request(name: str) -> None:
    from ocspd.authority.certinfo_csr import describe_request  # noqa: PLC0415  (as above)

    data = read_input(name)
    with naming(name):
        write_stdout(describe_request(data) + "\n")


async def _print_stored(flags: Flags) -> None:
    from ocspd.app import open_database  # noqa: PLC0415  (as above)
    from ocspd.authority.certinfo import find_certificate  # noqa: PLC0415  (as above)

    async with await open_database(flags.string("db-config"), SystemClock()) as db:
        certificate = await find_certificate(db, flags.string("serial"), flags.string("aki"))
    _print(certificate)


VERBS = (
    Verb(
        "certinfo",
        """ocspd certinfo -- output certinfo about the given cert

Usage of certinfo:
        - Data from local certificate files
        ocspd certinfo -cert file
        - Data from local CSR file
        ocspd certinfo -csr file
        - Data from certificate from remote server.
        ocspd certinfo -domain domain_name[:port]
        - Data from CA storage
        ocspd certinfo -serial serial -aki authority_key_id -db-config db-config

A file may be -, which is standard input. Nothing is verified.""",
        ("aki", "cert", "csr", "db-config", "domain", "serial"),
        _certinfo,
    ),
)
