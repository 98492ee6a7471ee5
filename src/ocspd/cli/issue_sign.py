"""`sign` and `info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.issue_input import NOT_ENOUGH, hosts_of, print_result
from ocspd.cli.issue_signer import Signer
from ocspd.cli.verb import no_more_arguments
from ocspd.errors import OCSPDError
from ocspd.inputs import naming, read_file
from ocspd.pki.csr import csr_text, parse_subject
from ocspd.pki.issuer import SignRequest

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


async def sign(flags: Flags, arguments: list[str]) -> None:
    """Sign a CSR; prints `cert` and `csr`, the latter as it was read."""
    name = flags.string("csr")
    if not name:
        if not arguments:
            raise OCSPDError(NOT_ENOUGH)
        name, *arguments = arguments
    subject = None
    if arguments:
        data = read_file(arguments[0])
        with naming(arguments[0]):
            subject = parse_subject(data)
        no_more_arguments(arguments[1:])
    signer = Signer(flags)
    signer.check()
    data = read_input(name)
    with naming(name):
        csr = csr_text(data)
    certificate = await signer.sign(
        SignRequest(
            csr_pem=csr,
            hosts=hosts_of(flags),
            subject=subject,
            profile=flags.string("profile"),
            label=flags.string("label"),
        )
    )
    print_result(cert=certificate, csr=csr)


async def info(flags: Flags, arguments: list[str]) -> None:
    """Print the CA certificate, the usages and the expiry of a signer, without a newline at the end."""
    no_more_arguments(arguments)
    if not flags.string("remote") and not flags.string("config"):
        raise OCSPDError("Either -remote or -config must be given. Refer to ocspd info -h for usage.")
    write_stdout(wire.dumps(await Signer(flags).info()))
