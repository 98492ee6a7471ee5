"""CFSSL's programs: under one of their names, through a link (`ocspd links`), ocspd behaves as that program.

cfssl           the verbs that CFSSL has; `help` and `-version` are not among its words
cfssljson       the verb json
multirootca     the verb of this name
mkbundle        the verb of this name
cfssl-bundle    the verbs bundle, certinfo, genkey and scan, with the few flags these programs have.
cfssl-certinfo  After an error their exit code is 0, unless it is about the flags.
cfssl-newkey
cfssl-scan
"""

from __future__ import annotations

from dataclasses import dataclass

CFSSL_VERBS = (
    "bundle",
    "certinfo",
    "crl",
    "gencert",
    "gencrl",
    "gencsr",
    "genkey",
    "info",
    "ocspdump",
    "ocsprefresh",
    "ocspserve",
    "ocspsign",
    "print-defaults",
    "revoke",
    "scan",
    "selfsign",
    "serve",
    "sign",
    "version",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program of CFSSL's."""

    name: str
    verb: str = ""
    """The verb it is; "" when its first word names one."""
    flags: tuple[str, ...] = ()
    """The only flags of the verb that it has; empty for all."""
    always_0: bool = False
    """Whether it ends with exit code 0 after an error."""


PROGRAMS = {
    program.name: program
    for program in (
        Program("cfssl"),
        Program("cfssljson", "json"),
        Program("multirootca", "multirootca"),
        Program("mkbundle", "mkbundle"),
        Program(
            "cfssl-bundle",
            "bundle",
            (
                "cert",
                "key",
                "ca-bundle",
                "int-bundle",
                "flavor",
                "int-dir",
                "metadata",
                "domain",
                "ip",
                "password",
            ),
            always_0=True,
        ),
        Program(
            "cfssl-certinfo", "certinfo", ("cert", "domain", "serial", "aki", "db-config"), always_0=True
        ),
        Program("cfssl-newkey", "genkey", ("initca", "config"), always_0=True),
        Program(
            "cfssl-scan",
            "scan",
            (
                "list",
                "family",
                "scanner",
                "timeout",
                "csv",
                "num-workers",
                "max-hosts",
                "ip",
                "ca-bundle",
            ),
            always_0=True,
        ),
    )
}
