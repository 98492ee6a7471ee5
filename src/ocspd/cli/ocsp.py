"""The verbs `ocspsign`, `ocsprefresh` and `ocspdump`."""

from __future__ import annotations

import base64
import contextlib
import sys
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ocspd.app import open_database
from ocspd.cli.flags import boolean, string
from ocspd.cli.io import print_json, read_input, write_stdout
from ocspd.cli.progress import PassProgress
from ocspd.cli.shared_flags import EMBED_CA, PROCESSES, RESPONDER_ID, SIGNER_FLAGS
from ocspd.cli.signers import certid_hashes, open_signers, signing_policy
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.errors import CodedError, ConfigError, OCSPDError
from ocspd.inputs import naming, read_file
from ocspd.logs import logger
from ocspd.model import CertStatus, parse_date, parse_reason, parse_status
from ocspd.pki.certs import load_certificate
from ocspd.pki.ocsp import SignerNames
from ocspd.shown import shown
from ocspd.signer.index_pass import index_pass
from ocspd.signer.presigning import run_pass
from ocspd.signer.response_table import dump_table
from ocspd.signer.signer_files import SignerFiles, open_signer

if TYPE_CHECKING:
    from ocspd.certdb.base import CertDB
    from ocspd.cli.flags import Flags
    from ocspd.clock import Clock
    from ocspd.pki.ocsp import OCSPSigner
    from ocspd.signer.tally import SkippedRow, Tally

_SHOWN_ISSUERS = 5
_KEPT = timedelta(days=7)


async def _open_db(flags: Flags, stack: AsyncExitStack, clock: Clock) -> CertDB:
    path = flags.string("db-config")
    if not path:
        raise ConfigError("need DB config file (provide with -db-config)")
    return await stack.enter_async_context(await open_database(path, clock))


# -- ocspsign ----------------------------------------------------------------------------------------


def _ocspsign(flags: Flags, arguments: list[str]) -> int:
    _no_arguments("ocspsign", arguments)
    clock = SystemClock()
    for name, what in (
        ("cert", "certificate"),
        ("ca", "CA certificate"),
        ("responder", "responder certificate"),
    ):
        if not flags.string(name):
            raise ConfigError(f"need {what} (provide with -{name})")
    key = flags.string("responder-key") or flags.string("key")
    if not key:
        raise ConfigError("need responder key (provide with -responder-key)")
    status = parse_status(flags.string("status"))
    reason, revoked_at = 0, None
    if status is CertStatus.REVOKED:
        reason = parse_reason(flags.string("reason"))
        revoked_at = _revoked_at(flags.string("revoked-at"), clock)
    hashes = certid_hashes(flags)
    if len(hashes) != 1:
        raise ConfigError("ocspsign signs a single response: give a single -certid-hash, such as sha1")
    data = read_input(flags.string("cert"))
    with naming(flags.string("cert")):
        certificate = load_certificate(data)
    names = SignerNames(flags.string("ca"), flags.string("responder"), key)
    signer = open_signer(SignerFiles(names, signing_policy(flags, hashes)), clock, read_file)
    signer.check_certificate(certificate)
    response = signer.sign(
        serial=certificate.serial_number,
        status=status,
        reason=reason,
        revoked_at=revoked_at,
        certid_hash=hashes[0],
    )
    print_json({"ocspResponse": base64.b64encode(response).decode()})
    return 0


def _revoked_at(text: str, clock: Clock) -> datetime:
    if text == "now":
        return clock.now()
    try:
        return parse_date(text)
    except ValueError:
        raise ConfigError(
            f"Malformed revocation time: {shown(text)!r}: use now or a date YYYY-MM-DD"
        ) from None


# -- ocsprefresh -------------------------------------------------------------------------------------


async def _ocsprefresh(flags: Flags, arguments: list[str]) -> int:
    _no_arguments("ocsprefresh", arguments)
    if not flags.string("db-config"):
        raise ConfigError("need DB config file (provide with -db-config)")
    clock = SystemClock()
    signers = open_signers(flags, clock, _hashes_kept(flags))
    if not flags.boolean("table") and not flags.string("index"):
        raise ConfigError("-table=false leaves nothing to write: give an index directory with -index")
    async with AsyncExitStack() as stack:
        db = await _open_db(flags, stack, clock)
        writer = None
        if flags.string("index"):
            writer = await stack.enter_async_context(index_pass(flags.string("index"), signers, clock))
        progress = stack.enter_context(
            PassProgress("signing OCSP responses", clock, await db.estimate_unexpired())
        )
        report = await run_pass(
            db,
            signers,
            clock=clock,
            processes=flags.integer("processes"),
            table=flags.boolean("table"),
            index=writer,
            on_progress=progress.update,
            on_skip=_print_skipped if flags.boolean("list-skipped") else None,
        )
        await _trim(db)
    _report(report, signers, db.name)
    return 0


def _hashes_kept(flags: Flags) -> tuple[str, ...]:
    """Return the CertID hashes to sign: the table has one response per certificate, an index one per hash."""
    hashes = certid_hashes(flags)
    if flags.string("index"):
        return hashes
    return ("sha1",) if "sha1" in hashes else hashes[:1]


async def _trim(db: CertDB) -> None:
    """Delete changes that no signer has read for days: without a signer they would pile up."""
    feed = db.change_feed()
    with contextlib.suppress(CodedError):  # a standby, no right to delete: somebody else's affair
        await feed.trim(await feed.current_cursor(), _KEPT)
    await feed.close()


def _print_skipped(row: SkippedRow) -> None:
    write_stdout(f"{row.serial}\t{row.aki}\t{row.cause}\n")


def _report(report: Tally, signers: list[OCSPSigner], database: str) -> None:
    logger.info(
        "signed %d OCSP responses for %d certificates (%d revoked)%s",
        report.responses,
        report.signed,
        report.revoked,
        f", valid until {report.next_update:%Y-%m-%d %H:%M:%S} UTC" if report.next_update else "",
    )
    if report.foreign:
        shown = ", ".join(
            f"{aki or 'none'}: {count}" for aki, count in report.foreign.most_common(_SHOWN_ISSUERS)
        )
        more = len(report.foreign) - _SHOWN_ISSUERS
        logger.info(
            "skipped %d certificates of other issuers, by key identifier (%s%s)",
            report.foreign.total(),
            shown,
            f" and {more} more" if more > 0 else "",
        )
    for cause, count in sorted(report.skipped.items()):
        logger.warning("skipped %d certificates: %s (-list-skipped lists them)", count, cause)
    if report.unreadable:
        logger.warning(
            "%d certificates have rows that cannot be fully read: signed as unknown, or as revoked if the "
            "row says so (-list-skipped lists them)",
            report.unreadable,
        )
    if report.reasons_dropped:
        logger.warning(
            "%d revoked certificates have an undefined reason (RFC 5280 §5.3.1): signed without it",
            report.reasons_dropped,
        )
    if not report.certificates:
        logger.warning("%s has no unexpired certificates: nothing to sign", database)
    elif not report.signed and report.foreign:
        logger.warning(
            "none of the certificates was issued by %s: give the CA that issued them with -ca",
            " or ".join(f"{signer.subject} (key identifier {signer.aki or 'none'})" for signer in signers),
        )


# -- ocspdump ----------------------------------------------------------------------------------------


async def _ocspdump(flags: Flags, arguments: list[str]) -> int:
    for argument in arguments:  # CFSSL takes no notice of them
        logger.warning("ocspdump takes no arguments: ignoring %s", shown(argument))
    async with AsyncExitStack() as stack:
        db = await _open_db(flags, stack, SystemClock())
        count = await dump_table(db, write_stdout)
        name = db.name
    if not count:
        sys.stderr.write(
            f"no unexpired OCSP responses in {name}: sign them first with\n"
            f"  ocspd ocsprefresh -db-config {flags.string('db-config')} -ca CA.pem -responder RESPONDER.pem "
            "-responder-key RESPONDER-KEY.pem\n"
        )
    return 0


def _no_arguments(verb: str, arguments: list[str]) -> None:
    if arguments:
        raise OCSPDError(
            f"{verb} takes no arguments, but got {shown(arguments[0])!r}: did a flag lose its dash?"
        )


VERBS = (
    Verb(
        "ocspsign",
        """ocspd ocspsign -- signs an OCSP response for a given CA, cert, and status
Prints JSON with the response in base64, {"ocspResponse":"..."}.
Pass it to ocspd json -bare NAME to get NAME-response.der.

Usage of ocspsign:
        ocspd ocspsign -ca cert -responder cert -responder-key key -cert cert [-status status] \\
                       [-reason code] [-revoked-at YYYY-MM-DD] [-interval 96h] [-certid-hash sha256]""",
        (
            string("ca", "CA certificate that issued -cert -- accepts '[file:]fname' or 'env:varname'"),
            "responder",
            "responder-key",
            string("cert", "certificate whose status is signed"),
            "reason",
            "status",
            "revoked-at",
            "interval",
            string("certid-hash", "hash of the CertID: sha1, sha256, sha384 or sha512", "sha1"),
            RESPONDER_ID,
            EMBED_CA,
        ),
        _ocspsign,
    ),
    Verb(
        "ocsprefresh",
        """ocspd ocsprefresh -- refreshes the ocsp_responses table
with new OCSP responses for all known unexpired certificates

Usage of ocsprefresh:
        ocspd ocsprefresh -db-config db-config -ca cert -responder cert -responder-key key [-interval 96h] \\
                          [-index directory [-table=false]] [-certid-hash sha1,sha256] [-list-skipped]

For several issuers in one database, repeat -ca, -responder and -responder-key in the same order.
A CA that signs its own responses is its own -responder. Certificates of other issuers are skipped.
The table has one response per certificate, with a SHA-1 CertID unless -certid-hash does not include sha1.
An index has one response for each hash.""",
        (
            "db-config",
            *SIGNER_FLAGS,
            string("index", "index directory to write as well, for ocspserve -index"),
            boolean("table", "write the ocsp_responses table; false requires -index", default=True),
            PROCESSES,
            boolean("list-skipped", "print serial, key identifier and reason of each skipped certificate"),
        ),
        _ocsprefresh,
    ),
    Verb(
        "ocspdump",
        """ocspd ocspdump -- prints all OCSP responses in the cert db that have not expired,
in base64, one per line, for use with ocspserve -responses

Usage of ocspdump:
        ocspd ocspdump -db-config db-config""",
        ("db-config",),
        _ocspdump,
    ),
)
