r"""Configured regular expressions, as in CFSSL: RE2's syntax and linear time.

Python's `re` differs in dangerous ways: its `$` allows a newline, its `\d` matches every script's digits,
it has no `\z`, and it can be made to run for ever.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # google-re2 has no type information

from ocspd.errors import ConfigError


class Pattern:
    """One expression; `text` is its source."""

    def __init__(self, text: str) -> None:
        """Compile an expression; ConfigError with RE2's reason when it is not one."""
        options: Any = re2.Options()
        options.log_errors = False
        self.text = text
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as err:
            reason = err.args[0].decode("utf-8", "replace") if err.args else ""
            raise ConfigError(f"not an RE2 expression: {reason}") from None
        except UnicodeEncodeError:
            raise ConfigError("not an RE2 expression: not UTF-8") from None

    def is_in(self, text: str) -> bool:
        """Return whether the expression matches anywhere in a text."""
        whole = text.encode("utf-8", "replace").decode()
        return self._compiled.search(whole) is not None

    def is_whole(self, text: str) -> bool:
        """Return whether the expression matches a whole text."""
        whole = text.encode("utf-8", "replace").decode()
        return self._compiled.fullmatch(whole) is not None


compiled = lru_cache(maxsize=64)(Pattern)
"""Pattern(text), cached."""
