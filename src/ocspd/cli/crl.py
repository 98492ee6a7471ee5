"""The verbs `crl`, `gencrl` (certificate revocation lists) and `certadd`."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

from ocspd.cli.flags import string
from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.issue_input import NOT_ENOUGH
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import Code, CodedError, ConfigError, OCSPDError, UsageError
from ocspd.inputs import naming, parse_key, read_certificate, read_key
from ocspd.logs import logger
from ocspd.model import CertStatus, parse_date, parse_reason, parse_status
from ocspd.shown import shown

if TYPE_CHECKING:
    from datetime import datetime

    from ocspd.cli.flags import Flags
    from ocspd.model import CertificateRow
    from ocspd.pki.crl_writer import CRLSigner

OUT_FORMAT = string("out-format", "form of the CRL: base64 (one line), der or pem", "base64")
_FORMATS = ("base64", "der", "pem")


def _format(flags: Flags) -> str:
    """Return -out-format; UsageError for an unknown one, before anything is signed."""
    name = flags.string("out-format")
    if name not in _FORMATS:
        raise UsageError(f"-out-format {shown(name, 64)!r}: use one of {', '.join(_FORMATS)}")
    return name


def _print(crl: bytes, form: str) -> None:
    from ocspd.pki.crl_writer import to_pem  # noqa: PLC0415  (cryptography, only when needed)

    match form:
        case "der":
            write_stdout(crl)
        case "pem":
            write_stdout(to_pem(crl))
        case _:
            write_stdout(base64.b64encode(crl) + b"\n")


def _warn(signer: CRLSigner) -> CRLSigner:
    for text in signer.warnings():
        logger.warning("%s", text)
    return signer


async def _crl(flags: Flags, arguments: list[str]) -> None:
    from ocspd.app import open_database  # noqa: PLC0415
    from ocspd.authority.crl_once import crl_of_database  # noqa: PLC0415
    from ocspd.authority.crls import left_out  # noqa: PLC0415
    from ocspd.authority.offload import offload  # noqa: PLC0415
    from ocspd.pki.crl_writer import CRLSigner  # noqa: PLC0415

    no_more_arguments(arguments)
    form = _format(flags)
    for name, what in (("ca", "CA certificate"), ("ca-key", "CA key"), ("db-config", "DB config file")):
        if not flags.string(name):
            raise ConfigError(f"need {what} (provide one with -{name})")
    clock = SystemClock()
    certificate, key = read_certificate(flags.string("ca")), read_key(flags.string("ca-key"))
    with naming(f"{flags.string('ca')}, {flags.string('ca-key')}"):
        signer = _warn(CRLSigner(certificate, key))
    async with await open_database(flags.string("db-config"), clock) as db:
        made = await crl_of_database(db, signer, flags.duration("expiry"), clock, offload)
    if made.foreign or made.unreadable:
        logger.warning("%s", left_out(made.foreign, made.unreadable))
    _print(made.der, form)


def _gencrl(flags: Flags, arguments: list[str]) -> None:
    from ocspd.authority.crl_once import crl_of_serials, decimal_serial, parse_seconds  # noqa: PLC0415
    from ocspd.pki.certs import load_certificate  # noqa: PLC0415
    from ocspd.pki.crl_writer import CRLSigner  # noqa: PLC0415

    form = _format(flags)
    if len(arguments) < 3:
        raise OCSPDError(NOT_ENOUGH)
    no_more_arguments(arguments[4:])
    files = arguments[:3]
    if files.count("-") > 1:
        raise OCSPDError("only one of the three files can be -, standard input")
    listed, certificate_pem, key_pem = map(read_input, files)
    validity = parse_seconds("".join(arguments[3:]))
    serials_name, certificate_name, key_name = ("standard input" if name == "-" else name for name in files)
    with naming(certificate_name):
        certificate = load_certificate(certificate_pem)
    serials = [
        decimal_serial(line, f"{serials_name}, line {number}")
        for number, line in enumerate(listed.decode("utf-8", "replace").split("\n"), 1)
        if line.strip()
    ]
    key = parse_key(key_name, key_pem)
    with naming(f"{certificate_name}, {key_name}"):
        signer = _warn(CRLSigner(certificate, key))
    _print(crl_of_serials(signer, serials, validity, SystemClock()), form)


async def _certadd(flags: Flags, arguments: list[str]) -> int:
    from ocspd.app import open_database  # noqa: PLC0415
    from ocspd.authority.adding import AlreadyStoredError, add  # noqa: PLC0415

    if not arguments:
        raise OCSPDError(NOT_ENOUGH)
    if not flags.string("db-config"):
        raise CodedError(Code.POLICY_INVALID, "need DB config file (provide with -db-config)")
    clock = SystemClock()
    rows = [row for name in arguments for row in _rows(name, flags, clock.now())]
    code = 0
    async with await open_database(flags.string("db-config"), clock) as db:
        for row in rows:
            try:
                await add(db, row)
            except AlreadyStoredError as err:
                logger.error("%s", err)
                code = 1
    return code


def _rows(name: str, flags: Flags, now: datetime) -> list[CertificateRow]:
    """Return the rows of all certificates in a file."""
    from ocspd.pki.certs import load_certificates, to_row  # noqa: PLC0415

    status = parse_status(flags.string("status"))
    reason, revoked_at = 0, None
    if status is CertStatus.REVOKED:
        reason, text = parse_reason(flags.string("reason")), flags.string("revoked-at")
        try:
            revoked_at = now if text in {"", "now"} else parse_date(text)
        except ValueError:
            raise UsageError(f"-revoked-at {text[:64]!r}: use now or YYYY-MM-DD") from None
    with naming(name):
        found = load_certificates(read_input(name))
    return [
        replace(
            to_row(certificate, label=flags.string("label"), issued_at=None),
            status=status,
            reason=reason,
            revoked_at=revoked_at,
        )
        for certificate in found
    ]


VERBS = (
    Verb(
        "crl",
        """ocspd crl -- generate a new Certificate Revocation List from Database

Usage of crl:
        ocspd crl -db-config config -ca cert -ca-key key [-expiry duration] [-out-format format]

Prints the CRL of the CA: the certificates it issued that are revoked and have not expired.""",
        ("db-config", "ca", "ca-key", "expiry", OUT_FORMAT),
        _crl,
    ),
    Verb(
        "gencrl",
        """ocspd gencrl -- generate a new Certificate Revocation List

Usage of gencrl:
        ocspd gencrl INPUTFILE CERT KEY [TIME]

Arguments:
        INPUTFILE:        Text file with one serial number (decimal) per line
        CERT:             The certificate that is signing this CRL
        KEY:              The private key of the certificate that is signing the CRL
        TIME (OPTIONAL):  The desired expiration from now, in seconds

One of the files can be '-', standard input.""",
        (OUT_FORMAT,),
        _gencrl,
    ),
    Verb(
        "certadd",
        """ocspd certadd -- add certificates that were issued elsewhere to the database

Usage of certadd:
        ocspd certadd -db-config config [-status status] [-reason reason] [-revoked-at date] \\
                      [-label label] CERT...

Each file may have several certificates; '-' is standard input. The exit status is 1 if the database
already has one of them; the others are added.""",
        ("db-config", "status", "reason", "revoked-at", "label"),
        _certadd,
        cfssl=False,
    ),
)
