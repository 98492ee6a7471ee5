"""What works in a signer and what does not: the single source of its gauges, readiness and log lines.

Invariant 5: every signal is true. Each part (database, change feed, index, keys, processes) is up as long as
no task has trouble with it. A failure is attributed to its cause, whichever task meets it; a task's trouble
with a part ends when that task has used the part again. Each change is logged once, not each attempt.
"""

from __future__ import annotations

from ocspd.errors import Code, CodedError, IndexFileError, OCSPDError, ProcessError, SignerError
from ocspd.logs import logger

PARTS = ("database", "feed", "index", "keys", "processes")
_AGAIN = {
    "database": "the source of certificates works again",
    "feed": "the database records every change again",
    "index": "the index can be written again",
    "keys": "certificates and keys can be used again",
    "processes": "signing processes work again",
}
_MEANWHILE = {
    "feed": "until then changes are found only by passes",
    "keys": "still using the previous signers, retrying",
}
_STORE = (Code.STORE_FAILED, Code.STORE_INSERT_FAILED, Code.STORE_NOT_FOUND)


def cause_of(error: Exception, otherwise: str) -> str:
    """Return the part a failure is attributed to."""
    match error:
        case IndexFileError():
            return "index"
        case SignerError():
            return "keys"
        case ProcessError():
            return "processes"
        case CodedError() if error.code in _STORE:
            return "database"
        case _:
            return otherwise


class Health:
    """The present troubles."""

    def __init__(self) -> None:
        self._troubles: dict[str, dict[str, str]] = {part: {} for part in PARTS}

    def failed(self, error: Exception, task: str, otherwise: str) -> None:
        """Record why a task failed; `otherwise` is the part if the error does not show it."""
        part = cause_of(error, otherwise)
        text = str(error) if isinstance(error, OCSPDError) else f"{task}: {type(error).__name__}: {error}"
        self.note(part, task, text)

    def note(self, part: str, task: str, text: str) -> None:
        """Record a task's trouble with a part."""
        troubles = self._troubles[part]
        if text not in troubles.values():
            logger.error("%s; %s", text, _MEANWHILE.get(part, "still serving the published index, retrying"))
        troubles[task] = text

    def tell(self, part: str, task: str, text: str) -> None:
        """Record a task's trouble with a part, or with an empty text that there is none."""
        if text:
            self.note(part, task, text)
        else:
            self.works(task, part)

    def works(self, task: str, *parts: str) -> None:
        """Record that a task has used parts (by default every part) successfully."""
        for part in parts or PARTS:
            troubles = self._troubles[part]
            if troubles.pop(task, None) is not None and not troubles:
                logger.info(_AGAIN[part])

    def up(self, part: str) -> bool:
        """Return whether no task has trouble with a part."""
        return not self._troubles[part]

    def trouble(self, part: str) -> str:
        """Return the first trouble with a part, empty when it is up."""
        return next(iter(self._troubles[part].values()), "")
