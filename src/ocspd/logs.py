"""Log lines in CFSSL's shape on stderr: `2006/01/02 15:04:05 [INFO] message`, local time.

Levels are CFSSL's: 0 DEBUG, 1 INFO, 2 WARNING, 3 ERROR, 4 CRITICAL, 5 FATAL. Request data never
reaches a level above INFO.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TextIO

from ocspd.shown import masked

FATAL = 60

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, FATAL)

logger = logging.getLogger("ocspd")

silent = logging.getLogger("ocspd.http")
"""Takes aiohttp's messages on broken requests, with tracebacks, and writes none of them."""
silent.disabled = True


class _Formatter(logging.Formatter):
    """One line per record: control characters are escaped, so input cannot forge lines; hides secrets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] %(message)s", "%Y/%m/%d %H:%M:%S")
        self._second = -1
        self._time = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  (as below)
        """Format the time, once a second."""
        second = int(record.created)
        if second != self._second:
            self._time, self._second = super().formatTime(record, datefmt), second
        return self._time

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (name of the base class)
        """Format one record, with line breaks and control characters escaped."""
        message = record.message
        if not message.isprintable():
            message = "".join(
                char if char.isprintable() else char.encode("unicode_escape").decode() for char in message
            )
        record.message = masked(message)
        return super().formatMessage(record)


def capture_warnings() -> None:
    """Log warnings of Python and of libraries at DEBUG: they name source files and do not help users."""
    warnings.showwarning = _log_warning


def _log_warning(  # noqa: PLR0913, PLR0917  (the signature is that of warnings.showwarning)
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del filename, lineno, file, line
    logger.debug("%s: %s", category.__name__, message)


def setup(level: int, stream: TextIO | None = None) -> None:
    """Send the package's log lines at CFSSL level `level` (0-5) and above to stream (stderr)."""
    logging.addLevelName(FATAL, "FATAL")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter())
    logger.handlers[:] = [handler]
    logger.propagate = False
    capture_warnings()
    # what no line shows need not be found out for each
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logger.findCaller = _nowhere  # type: ignore[method-assign]
    logger.setLevel(_LEVELS[min(max(level, 0), 5)])


def _nowhere(*_: object, **__: object) -> tuple[str, int, str, None]:
    """Return what stands for the place in the source that writes a line."""
    return "(unknown file)", 0, "(unknown function)", None


def level() -> int:
    """Return CFSSL's number of the level in use, for a process that is to log like this one."""
    return next(number for number, each in enumerate(_LEVELS) if logger.getEffectiveLevel() <= each)
