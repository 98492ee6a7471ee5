"""What is shown of a user's input, in messages, logs and replies: never a secret.

Keys and passwords end up in place of a file name or a number: `-ca-key "$(cat key.pem)"`, an auth key
without its `env:`, a URL with a password. There are two safety nets: `shown` for a text within a message, and
`masked` over every finished line, for cases nobody thought of.
"""

from __future__ import annotations

import re

HIDDEN = "(hidden: it looks like a key or a password)"

_PEM = re.compile(r"-{3,5}BEGIN|PRIVATE KEY")
_RUN = re.compile(r"[A-Za-z0-9+=]{20,4096}")
_LETTER = re.compile(r"[A-Za-z]")
_FEWEST_DIGITS = 3
_MASKS = (
    # a private key in PEM, its line breaks perhaps escaped, up to the end of what looks like it
    re.compile(r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----)[A-Za-z0-9+/=\s\\:,-]*()", re.ASCII),
    re.compile(r"(://[^/\s:@]{0,200}:)[^/\s]{1,500}(@)", re.ASCII),
    re.compile(r"((?i:password|passwd)\s{0,5}=\s{0,5})(?:'[^']{0,500}'|[^\s'&]{1,500})()", re.ASCII),
)
"""The groups are kept, what is between them is not."""
_BARE_KEY = re.compile(
    r"\bM[A-Z0-9][A-Za-z0-9+/]{0,6}(?:AgEA|AgEB|IBAD|IBAA|CAQA|CAQE)[A-Za-z0-9+/=]{12,8192}", re.ASCII
)
"""A private key in base64 without BEGIN and END: PKCS #8, PKCS #1 or SEC 1 begin with a small INTEGER."""


def is_secret(text: str) -> bool:
    """Return whether a text looks like key material: PEM, or a long run of letters and digits."""
    return _PEM.search(text) is not None or any(
        _LETTER.search(run) and sum(map(str.isdigit, run)) >= _FEWEST_DIGITS for run in _RUN.findall(text)
    )


def shown(text: str, limit: int = 200) -> str:
    """Return a text fit for a message: printable, of at most `limit` characters, not a secret."""
    if is_secret(text):
        return HIDDEN
    short = masked(text[:limit])
    return short if short.isprintable() else repr(short)


def masked(line: str) -> str:
    """Return a finished message without private keys in PEM and passwords in URLs and settings."""
    if "PRIVATE KEY" in line or "://" in line or "passw" in line.lower():
        for pattern in _MASKS:
            line = pattern.sub(r"\1(hidden)\2", line)
    return _BARE_KEY.sub("(hidden)", line)  # last: the others look for the armour
