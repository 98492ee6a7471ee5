"""Questions about whole indexes, for signers and supervisors."""

from ocspd._index import Index

def stale(
    index: Index,
    keys: list[tuple[str, bytes, bytes]],
    rows: list[tuple[int, int, int, bytes | None]],
    now_s: int,
    spread_s: int = 0,
    until_s: int | None = None,
    signed_after_s: int = ...,
) -> tuple[list[int], list[int]]:
    """Return the positions of the rows that need a new response under any of the CertID prefixes.

    The second list has those that say something else where the index says revoked: no other row may be
    worse than that, so whoever signs asks first what all rows of the certificate say. They are not in the
    first list.

    A row is (serial, status, reason, revocation time as GeneralizedTime or None). It is stale when
    there is no response, when the newest one says something else, is due for refresh, has a
    thisUpdate more than a minute after now_s, or was produced before `signed_after_s`. `spread_s` makes
    every serial due up to that much earlier, by a hash of its own, so that certificates signed together are
    not all due together again. No response is due that lasts until `until_s`, when the rows lose their force:
    a new one would not last longer.
    """

def replaced(
    index: Index,
    keys: list[tuple[str, bytes, bytes]],
    rows: list[tuple[int, int, int, bytes | None]],
    same: bool = False,
) -> list[int]:
    """Return for each row the latest thisUpdate of its responses that say something else, 0 without any.

    With `same` a response that says the same counts with the second before its thisUpdate: the next may have
    the same time, but none before it.

    Rows and prefixes as for `stale`; times in seconds since the epoch.
    """
