"""`gencert`, `genkey`, `gencsr` and `selfsign`: the verbs that start from CSR JSON."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ocspd.cli.issue_input import (
    NOT_ENOUGH,
    authority_config,
    hosts_of,
    only_argument,
    print_result,
    read_request,
    signing_config,
)
from ocspd.cli.verb import no_more_arguments
from ocspd.clock import SystemClock
from ocspd.errors import OCSPDError
from ocspd.inputs import parse_key, read_certificate, read_key, read_key_material
from ocspd.logs import logger
from ocspd.pki import ca
from ocspd.pki.csr import NO_HOSTS, make_csr, new_key
from ocspd.pki.issuer import SignRequest
from ocspd.pki.profiles import default_profile

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags
    from ocspd.pki.csr import CertificateRequest
    from ocspd.pki.profiles import Profile

_CA_SECTION = "ca section only permitted in initca"

_SELF_SIGNED = """\
*** WARNING ***

Self-signed certificates are dangerous. Use this self-signed
certificate at your own risk.

It is strongly recommended that these certificates NOT be used
in production.

*** WARNING ***

"""


async def gencert(flags: Flags, arguments: list[str]) -> None:
    """Generate a key and a certificate: a CA with -initca, a renewed CA with -renewca, or a signed one."""
    if flags.boolean("renewca"):
        no_more_arguments(arguments)
        _renew(flags)
        return
    request = read_request(only_argument(arguments))
    if flags.string("cn"):
        request = replace(request, common_name=flags.string("cn"))
    if flags.boolean("initca"):
        _init_ca(flags, request)
        return
    if request.ca is not None:
        raise OCSPDError(_CA_SECTION)
    await _signed(flags, request)


async def _signed(flags: Flags, request: CertificateRequest) -> None:
    from ocspd.cli.issue_signer import Signer  # noqa: PLC0415  (the HTTP client takes long to import)

    hosts = hosts_of(flags)
    if hosts is not None:
        request = replace(request, hosts=hosts)
    signer = Signer(flags)
    signer.check()
    key, key_pem = new_key(request)
    csr = make_csr(request, key)
    certificate = await signer.sign(
        SignRequest(
            csr_pem=csr,
            hosts=hosts,
            profile=flags.string("profile"),
            label=flags.string("label"),
            crl_url=flags.string("crl"),
        )
    )
    if not request.hosts and _is_for_servers(signer.profile):
        for line in NO_HOSTS.splitlines():
            logger.warning("%s", line)
    print_result(cert=certificate, csr=csr, key=key_pem)


def _is_for_servers(profile: Profile) -> bool:
    """Return whether missing hosts are worth a warning: CFSSL warns on client and CA certificates too."""
    return profile.usages is None or "server auth" in profile.usages


def _init_ca(flags: Flags, request: CertificateRequest) -> None:
    for name in ("config", "profile", "hostname", "db-config"):
        if flags.string(name):
            logger.warning("-%s has no effect with -initca: use the CSR's ca section", name)
    if flags.string("ca-key"):
        logger.info("re-generate a CA certificate from CSR and CA key")
        made = ca.init_ca(request, SystemClock(), read_key(flags.string("ca-key")))
    else:
        logger.info("generating a new CA key and certificate from CSR")
        made = ca.init_ca(request, SystemClock())
    print_result(cert=made.cert, csr=made.csr, key=made.key)


def _renew(flags: Flags) -> None:
    certificate_spec, key_spec = authority_config(flags).required_ca()
    logger.info("re-generate a CA certificate from CA cert and CA key")
    certificate, key = read_certificate(certificate_spec), read_key(key_spec)
    print_result(cert=ca.renew_ca(certificate, key, SystemClock()))


def genkey(flags: Flags, arguments: list[str]) -> None:
    """Generate a key and a CSR; with -initca a CA."""
    request = read_request(only_argument(arguments))
    if flags.boolean("initca"):
        _init_ca(flags, request)
        return
    if request.ca is not None:
        raise OCSPDError(_CA_SECTION)
    key, key_pem = new_key(request)
    print_result(csr=make_csr(request, key), key=key_pem)


def gencsr(flags: Flags, arguments: list[str]) -> None:
    """Create a CSR for an existing key, from CSR JSON or from a certificate; the key is printed as read."""
    spec = flags.string("key")
    if not spec:
        raise OCSPDError("need a private key (provide one with -key)")
    data = read_key_material(spec)
    key = parse_key(spec, data)
    if flags.string("cert"):
        no_more_arguments(arguments)
        request = ca.request_from_certificate(read_certificate(flags.string("cert")))
    else:
        request = read_request(only_argument(arguments))
    hosts = hosts_of(flags)
    if hosts is not None:
        request = replace(request, hosts=hosts)
    print_result(csr=make_csr(request, key), key=data.decode("utf-8", "replace"))


def selfsign(flags: Flags, arguments: list[str]) -> None:
    """Generate a key and a self-signed certificate for testing, with CFSSL's warning."""
    if not flags.string("hostname") and not flags.boolean("initca"):
        if not arguments:
            raise OCSPDError(NOT_ENOUGH)
        del arguments[0]
    request = read_request(only_argument(arguments))
    config = signing_config(flags)
    profile = replace(default_profile(), expiry=ca.SELF_SIGNED_EXPIRY)
    if config is not None:
        profile = config.profiles.get(flags.string("profile"), config.default)
    key, key_pem = new_key(request)
    certificate, csr = ca.self_sign(request, key, profile, SystemClock())
    sys.stderr.write(_SELF_SIGNED)
    print_result(cert=certificate, csr=csr, key=key_pem)
