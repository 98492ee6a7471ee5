"""The command `ocspd`: finds the verb, parses its flags, runs it, turns errors into exit codes.

    0    done, or help was requested
    1    the verb failed, or does not exist
    2    the command line cannot be understood; the usage text follows on stderr (except if out of range)
    130  interrupted (Ctrl-C)
    141  the reader of standard output has closed it

Verb modules are imported when their verb is used: a script that calls `ocspd json` a hundred times does
not pay for the web server. `_VERBS` is the only list of verbs; a test compares it with the modules. Started
under the name of a program of CFSSL's, through a link, this is that program (`programs`).
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from ocspd import logs
from ocspd.cli.flags import HelpRequested, parse
from ocspd.cli.io import discard
from ocspd.cli.programs import CFSSL_VERBS, PROGRAMS
from ocspd.errors import OCSPDError, RangeError, UsageError
from ocspd.shown import masked, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ocspd.cli.flags import Flags
    from ocspd.cli.programs import Program
    from ocspd.cli.verb import Verb

_VERBS = {
    "gencert": ("issue", "generate a new key and signed certificate"),
    "genkey": ("issue", "generate a new key and CSR"),
    "gencsr": ("issue", "generate a CSR for an existing key"),
    "selfsign": ("issue", "generate a new self-signed key and certificate"),
    "sign": ("issue", "sign a CSR with a CA"),
    "certinfo": ("certinfo", "show what is in a certificate or CSR"),
    "scan": ("scan", "scan TLS servers for issues"),
    "info": ("issue", "show the CA certificate and profile of a signer"),
    "print-defaults": ("issue", "print default configurations"),
    "bundle": ("bundle", "build the chain that makes clients trust a certificate"),
    "mkbundle": ("mkbundle", "gather certificates in one file, except expired and revoked ones"),
    "serve": ("serve", "run the CFSSL API"),
    "multirootca": ("multirootca", "run an authenticated signer for several CAs"),
    "revoke": ("database", "revoke a certificate in the database"),
    "crl": ("crl", "print the CRL of a CA, from the database"),
    "gencrl": ("crl", "print a CRL of a list of serial numbers"),
    "certadd": ("crl", "add certificates issued elsewhere to the database"),
    "db": ("database", "create, migrate and inspect the certificate database"),
    "ocspsign": ("ocsp", "sign an OCSP response for a certificate"),
    "ocsprefresh": ("ocsp", "sign OCSP responses for all unexpired certificates in the database"),
    "refresh": ("refresh", "keep an index up to date: sign responses as the database changes"),
    "ocspdump": ("ocsp", "print the OCSP responses in the database"),
    "ocspserve": ("ocspserve", "run the OCSP responder"),
    "index": ("index", "build, inspect and verify index directories"),
    "token": ("token", "make bearer tokens for clients of serve"),
    "audit": ("audit", "check and read the audit log of serve"),
    "json": ("json_tool", "split the JSON of other commands into files (cfssljson)"),
    "demo": ("demo", "set up a CA with a responder here and check it with openssl"),
    "links": ("links", "make links with the names of CFSSL's programs"),
    "version": ("misc", "print the version"),
}
"""Verb: module in ocspd.cli, and a short description."""

_HELP_FLAGS = {"-h", "--h", "-help", "--help"}
_HELP_WORDS = {*_HELP_FLAGS, "help"}
_VERSION_WORDS = {"-version", "--version"}


def main(
    argv: Sequence[str] | None = None,
    *,
    find: Callable[[str], Verb | None] | None = None,
    name: str | None = None,
) -> int:
    """Run one command line (sys.argv without its first word) and return the exit code.

    `find` returns the verb of a name, `find_verb` without it. `name` is the one it was started under; without
    it and without `argv` it is the first word of sys.argv.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if name is None:
        name = sys.argv[0] if argv is None else ""
    program = PROGRAMS.get(name.rpartition("/")[2])
    try:
        logs.capture_warnings()
        code = (
            _main(words, find or find_verb) if program is None else _run_as(program, words, find or find_verb)
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        discard(sys.stdout)
        return 141
    except OSError as err:  # the last flush of standard output, a full disk for example
        discard(sys.stdout)
        _complain(f"standard output: cannot write: {err.strerror}")
        return 1
    return code


def _main(argv: list[str], find: Callable[[str], Verb | None]) -> int:
    if not argv:
        _complain(f"No command is given.\n{_overview()}")
        return 1
    name, words = argv[0], argv[1:]
    if name in _HELP_WORDS and not words:
        _complain(_overview())
        return 0
    if name in _HELP_WORDS:
        name, words = words[0], [*words[1:], "-h"]
    if name in _VERSION_WORDS:
        name = "version"
    if name.startswith("-"):
        _complain(f"flag provided but not defined: -{shown(name.lstrip('-').partition('=')[0])}")
        _complain(f"flags go after the command: ocspd COMMAND {shown(name)} ...\n{_overview()}")
        return 2
    try:
        verb = find(name)
    except ImportError as err:
        _complain(f"{name}: cannot be loaded: {err} (is ocspd built and installed? `make setup` does both)")
        return 1
    if verb is None:
        _complain(f"Command {shown(name)} is not defined.\n{_overview()}")
        return 1
    return _parse_and_run(verb, words)


def _run_as(program: Program, words: list[str], find: Callable[[str], Verb | None]) -> int:
    """Run a command line of one of CFSSL's programs."""
    if program.verb:
        verb = find(program.verb)
        if verb is None:
            _complain(f"{program.name} is not part of this version of ocspd")
            return 1
        return _run_with_few_flags(program, verb, words) if program.flags else _parse_and_run(verb, words)
    if not words or words[0] in _HELP_FLAGS:
        _complain(_cfssl_overview() if words else f"No command is given.\n{_cfssl_overview()}")
        return 0 if words else 1
    name = words[0]
    if name.startswith("-"):
        flag = shown(name.lstrip("-").partition("=")[0])
        _complain(f"flag provided but not defined: -{flag}\n{_cfssl_overview()}")
        return 2
    verb = find(name) if name in CFSSL_VERBS else None
    if verb is None:
        _complain(f"Command {shown(name)} is not defined.\n{_cfssl_overview()}")
        return 1
    return _parse_and_run(verb, words[1:])


def _run_with_few_flags(program: Program, verb: Verb, words: list[str]) -> int:
    """Run a verb as a program that has only some of its flags; after an error the exit code is 0."""
    try:
        parse(words, [flag for flag in verb.declared() if flag.name in program.flags])
    except HelpRequested:
        _complain(verb.help(program.flags))
        return 0
    except UsageError as err:
        _complain(f"{err}\n{verb.help(program.flags)}")
        return err.exit_code
    code = _run(verb, *parse(words, verb.declared()))
    return code if code > UsageError.exit_code else 0


def _cfssl_overview() -> str:
    lines = "\n".join(f"\t{name}" for name in CFSSL_VERBS if name in _VERBS)
    return f"Usage:\nAvailable commands:\n{lines}\n"


def _parse_and_run(verb: Verb, words: list[str]) -> int:
    try:
        whole, verb = verb, verb.action(words)
        flags, arguments = parse(words, verb.declared())
    except HelpRequested:
        _complain(verb.help())
        return 0
    except UsageError as err:
        return _misused(err, verb)
    if verb is not whole:
        del arguments[0]  # the name of the action
    return _run(verb, flags, arguments)


def find_verb(name: str) -> Verb | None:
    """Return the verb of that name, importing its module; None when there is none."""
    entry = _VERBS.get(name)
    if entry is None:
        return None
    module = importlib.import_module(f"ocspd.cli.{entry[0]}")
    verbs: tuple[Verb, ...] = module.VERBS
    return next((verb for verb in verbs if verb.name == name), None)


def _run(verb: Verb, flags: Flags, arguments: list[str]) -> int:
    level = flags.integer("loglevel")
    logs.setup(level)
    try:
        if verb.cfssl and flags.string("config"):
            from ocspd.cli.io import load_config  # noqa: PLC0415  (most command lines need no file)

            load_config(flags)
        result = verb.run(flags, arguments)
        if result is not None and not isinstance(result, int):
            import asyncio  # noqa: PLC0415  (30 ms that the synchronous verbs do not need)

            result = asyncio.run(_wait_for(result))
    except BrokenPipeError:
        raise
    except Exception as err:  # noqa: BLE001  (the one place where every failure becomes an exit code)
        return _report(err, verb, level)
    return result or 0


async def _wait_for(awaitable: Awaitable[int | None]) -> int | None:
    return await awaitable


def _report(error: BaseException, verb: Verb, level: int) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt | BrokenPipeError):
        raise error
    if isinstance(error, UsageError):
        return _misused(error, verb)
    if isinstance(error, OCSPDError):
        _complain(str(error))
        return error.exit_code
    if level <= 0:
        import traceback  # noqa: PLC0415  (only for a bug)

        traceback.print_exception(error)
    text = " ".join(str(error).split())
    _complain(
        f"{verb.name}: unexpected {type(error).__name__}: {text[:500]}. This is a bug in ocspd: please "
        "report it with the traceback that -loglevel 0 prints"
    )
    return 1


def _misused(error: UsageError, verb: Verb) -> int:
    """Print why a command line is rejected and, unless that includes the remedy, the usage text."""
    _complain(str(error) if isinstance(error, RangeError) else f"{error}\n{verb.help()}")
    return error.exit_code


def _overview() -> str:
    width = max(map(len, _VERBS))
    lines = "\n".join(f"\t{name:{width}}  {summary}" for name, (_, summary) in _VERBS.items())
    usage = "Usage: ocspd COMMAND [flags] [arguments]; ocspd COMMAND -h explains it."
    return f"{usage}\nAvailable commands:\n{lines}\n"


def _complain(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        text = masked(text)
        sys.stderr.write(text if text.endswith("\n") else text + "\n")
        sys.stderr.flush()
    except OSError:  # there is nobody left to tell; the exit code stays what it is
        discard(sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
