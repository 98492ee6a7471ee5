"""The client of certificate transparency logs: one precertificate to every log of a profile (RFC 6962 §4.1).

All of them at once, and every one must return a valid timestamp: a certificate with fewer than its profile
says would be refused by clients after it was issued. A log that is busy (408, 429, 503) is asked again, at
most `ATTEMPTS` times. Nothing takes longer than `TOTAL_S`, no reply is read beyond `MAX_REPLY_BYTES`, and
redirects are not followed. The error is CFSSL's 10100, and names the log and the reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import aiohttp

from ocspd.client.transport import cause_of, proxy_for
from ocspd.errors import Code, CodedError
from ocspd.logs import logger
from ocspd.pki.ct import SCTError, read_sct
from ocspd.shown import shown
from ocspd.tasks import Tasks, time_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ocspd.clock import Clock
    from ocspd.pki.ct import SCT, CTLog, Precertificate

TOTAL_S = 30.0
"""The time that all logs together may take."""
CONNECT_S = 10.0
MAX_REPLY_BYTES = 64 * 1024
ATTEMPTS = 3

_BUSY = {408, 429, 503}
_FIRST_PAUSE_S = 1.0
_MAX_TEXT = 200


class _BusyError(Exception):
    """The log is to be asked again, in so many seconds if it says so."""

    def __init__(self, status: int, after_s: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.after_s = after_s


async def submit(
    precertificate: Precertificate,
    logs: Sequence[CTLog],
    clock: Clock,
    *,
    total_s: float = TOTAL_S,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[SCT]:
    """Return the timestamps of all logs in their order; CodedError 10100 when one of them has none."""
    chain = (precertificate.der, precertificate.issuer_der)
    body = json.dumps({"chain": [base64.b64encode(each).decode() for each in chain]}).encode()
    timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=min(CONNECT_S, total_s))
    async with (
        aiohttp.ClientSession(
            timeout=timeout,
            headers={"Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
        Tasks() as tasks,
    ):
        waiting = [
            tasks.create_task(_submit(session, log, body, precertificate, clock, total_s, pause))
            for log in logs
        ]
    return [task.result() for task in waiting]


async def _submit(  # noqa: PLR0913, PLR0917  (what one submission consists of)
    session: aiohttp.ClientSession,
    log: CTLog,
    body: bytes,
    precertificate: Precertificate,
    clock: Clock,
    total_s: float,
    pause: Callable[[float], Awaitable[None]],
) -> SCT:
    logger.info("submitting poisoned precertificate to %s", shown(log.url))
    try:
        async with time_limit(total_s):
            sct = read_sct(await _until_accepted(session, f"{log.url}/ct/v1/add-pre-chain", body, pause))
    except TimeoutError:
        raise _failed(log, f"no SCT within {total_s:g} s") from None
    except SCTError as err:
        raise _failed(log, str(err)) from None
    try:
        sct.check(log, precertificate, clock.now())
    except SCTError as err:
        raise _failed(log, str(err)) from None
    return sct


def _failed(log: CTLog, reason: str) -> CodedError:
    return CodedError(
        Code.CT_SUBMISSION_FAILED,
        f"Certificate transparency precertificate submission failed: {shown(log.url)}: {reason}",
    )


async def _until_accepted(
    session: aiohttp.ClientSession, url: str, body: bytes, pause: Callable[[float], Awaitable[None]]
) -> bytes:
    wait_s = _FIRST_PAUSE_S
    for attempt in range(ATTEMPTS):
        try:
            return await _post(session, url, body)
        except _BusyError as busy:
            if attempt == ATTEMPTS - 1:
                raise SCTError(f"it is busy: HTTP status {busy.status}") from None
            await pause(wait_s if busy.after_s is None else busy.after_s)
            wait_s *= 2
    raise AssertionError  # the last attempt returns or raises


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    try:
        async with session.post(url, data=body, proxy=proxy_for(url), allow_redirects=False) as response:
            if response.status in _BUSY:
                raise _BusyError(response.status, _retry_after(response.headers.get("Retry-After", "")))
            reply = await _read_limited(response)
            if response.status != 200:
                text = " ".join(reply.decode("utf-8", "replace").split())[:_MAX_TEXT]
                raise SCTError(f"HTTP status {response.status}{f': {shown(text)}' if text else ''}")
            return reply
    except TimeoutError:  # before OSError, of which it is one
        raise
    except (aiohttp.ClientError, OSError, ValueError) as err:
        raise SCTError(cause_of(err, url, "add its CA to those that the system trusts")) from None


def _retry_after(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_any():
        chunks += chunk
        if len(chunks) > MAX_REPLY_BYTES:
            raise SCTError(f"its reply is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(chunks)
