"""The verb `token`: make bearer tokens for clients of `ocspd serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.cli.io import write_stdout
from ocspd.cli.verb import Verb, no_action
from ocspd.errors import UsageError
from ocspd.shown import shown
from ocspd.wire import dumps

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags


def _new(_flags: Flags, arguments: list[str]) -> None:
    from ocspd.authority.access.tokens import new_token  # noqa: PLC0415  (not needed for help)

    if len(arguments) != 1:
        raise UsageError("token new takes one argument: the name of the client")
    name = arguments[0]
    if not name or not name.isprintable() or len(name) > 60:
        raise UsageError(f"{shown(name, 60)!r} is not a name for a client: at most 60 printable characters")
    token, hashed = new_token()
    line = dumps({name: {"token": hashed, "issue": []}})[1:-1]
    write_stdout(f'token: {token}\nfor "access": {{"clients": {{...}}}} in -config: {line}\n')


VERBS = (
    Verb(
        "token",
        "ocspd token -- make bearer tokens for clients of serve\n\n"
        "Usage of token:\n        ocspd token new NAME  make a token for a client of this name",
        (),
        no_action,
        cfssl=False,
        actions=(
            Verb(
                "token new",
                "ocspd token new -- make a bearer token\n\n"
                "Usage of token new:\n        ocspd token new NAME\n\n"
                "Prints the token, which is shown this once and stored nowhere, and the line for the member\n"
                '"access" of the configuration, which has only its SHA-256. Add the rights to the line.',
                (),
                _new,
                cfssl=False,
            ),
        ),
    ),
)
