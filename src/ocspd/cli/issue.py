"""The verbs that create keys, requests and certificates; the modules `issue_…` implement them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ocspd.cli.shared_flags import ALLOW_RSA_1024
from ocspd.cli.verb import Run, Verb

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ocspd.cli.flags import Flags

_CSRJSON = "        CSRJSON:    JSON file containing the request, use '-' for reading JSON from stdin"

_REMOTE_FLAGS = ("tls-remote-ca", "mutual-tls-client-cert", "mutual-tls-client-key")

_GENCERT = f"""
ocspd gencert -- generate a new key and signed certificate

Usage of gencert:
    Generate a new key and cert from CSR:
        ocspd gencert -initca CSRJSON
        ocspd gencert -ca cert -ca-key key [-config config] [-profile profile] [-hostname hostname] CSRJSON
        ocspd gencert -remote remote_host [-config config] [-profile profile] [-label label] [-hostname hostname] CSRJSON

    Re-generate a CA cert with the CA key and CSR:
        ocspd gencert -initca -ca-key key CSRJSON

    Re-generate a CA cert with the CA key and certificate:
        ocspd gencert -renewca -ca cert -ca-key key

With -db-config the certificate is stored in the database. The password of an encrypted CA key
is read from the environment variable CFSSL_CA_PK_PASSWORD.

Arguments:
{_CSRJSON}
"""  # noqa: E501  (the usage line is one line)

_GENKEY = f"""
ocspd genkey -- generate a new key and CSR

Usage of genkey:
        ocspd genkey [-initca] CSRJSON

Arguments:
{_CSRJSON}
"""

_GENCSR = f"""
ocspd gencsr -- generate a csr from a private key with existing CSR json or certificate

Usage of gencsr:
        ocspd gencsr -key private_key_file [-hostname hostname] CSRJSON
        ocspd gencsr -key private_key_file [-hostname hostname] -cert certificate_file

Arguments:
{_CSRJSON}
"""

_SELFSIGN = f"""
ocspd selfsign -- generate a new self-signed key and signed certificate

Usage of selfsign:
        ocspd selfsign HOSTNAME CSRJSON

WARNING: this should ONLY be used for testing. This should never be
used in production.

Arguments:
        HOSTNAME:   not used (as in CFSSL): the names come from "hosts" of CSRJSON
{_CSRJSON}
"""

_SIGN = """
ocspd sign -- signs a client cert with a host name by a given CA and CA key

Usage of sign:
        ocspd sign -ca cert -ca-key key [-config config] [-profile profile] [-hostname hostname] [-db-config db-config] CSR [SUBJECT]
        ocspd sign -remote remote_host [-config config] [-profile profile] [-label label] [-hostname hostname] CSR [SUBJECT]

Arguments:
        CSR:        PEM file for certificate request, use '-' for reading PEM from stdin.
        SUBJECT:    optional JSON file with the subject to use instead of the CSR's

Note: CSR can also be supplied via flag values; the flag takes precedence over the argument.
"""  # noqa: E501  (the usage lines are one line each)

_INFO = """
ocspd info -- get info about a signer

Usage of info:
        ocspd info -remote remote_host [-label label] [-profile profile]
        ocspd info -config config -ca cert -ca-key key [-profile profile]
"""

_PRINT_DEFAULTS = """
ocspd print-defaults -- print default configurations that can be used as a template

Usage of print-defaults:
        ocspd print-defaults TYPE

If "list" is used as the TYPE, the list of supported types will be printed.
"""


def _later(module: str, function: str) -> Run:
    """Return a function that imports its module when called: most verbs need no HTTP client."""

    def run(flags: Flags, arguments: list[str]) -> Awaitable[int | None] | int | None:
        found: Run = getattr(import_module(f"ocspd.cli.{module}"), function)
        return found(flags, arguments)

    return run


VERBS = (
    Verb(
        "gencert",
        _GENCERT,
        (
            "initca",
            "renewca",
            "remote",
            "ca",
            "ca-key",
            "config",
            "cn",
            "hostname",
            "profile",
            "label",
            "crl",
            "db-config",
            ALLOW_RSA_1024,
            *_REMOTE_FLAGS,
        ),
        _later("issue_new", "gencert"),
    ),
    Verb("genkey", _GENKEY, ("initca", "config"), _later("issue_new", "genkey")),
    Verb("gencsr", _GENCSR, ("key", "cert", "hostname"), _later("issue_new", "gencsr")),
    Verb("selfsign", _SELFSIGN, ("config", "profile"), _later("issue_new", "selfsign")),
    Verb(
        "sign",
        _SIGN,
        (
            "hostname",
            "csr",
            "ca",
            "ca-key",
            "config",
            "profile",
            "label",
            "remote",
            *_REMOTE_FLAGS,
            "db-config",
            ALLOW_RSA_1024,
        ),
        _later("issue_sign", "sign"),
    ),
    Verb(
        "info",
        _INFO,
        ("remote", "label", "profile", "config", "ca", "ca-key", *_REMOTE_FLAGS, ALLOW_RSA_1024),
        _later("issue_sign", "info"),
    ),
    Verb("print-defaults", _PRINT_DEFAULTS, (), _later("issue_defaults", "print_defaults")),
)
