"""The endpoints `scan` and `scaninfo`.

A client chooses which host this server connects to: see `ocspd.authority.fetching` for what is refused. A
scan takes up to five minutes and many connections, so only a few run at once.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ocspd.authority.api.api_response import BadRequest, HTTPStatusError, Success
from ocspd.authority.offload import wait_outside
from ocspd.authority.scanning.families import Choice, Scan, describe_families, run_scan
from ocspd.errors import OCSPDError
from ocspd.wire import DurationError, parse_duration

if TYPE_CHECKING:
    from ocspd.authority.api.call import Call
    from ocspd.authority.fetching import Outbound
    from ocspd.authority.scanning.target import Trust
    from ocspd.clock import Clock

MAX_SCANS = 4
"""Scans at once, until the last scanner of each has ended; a further request gets 503."""

_DEFAULT = timedelta(minutes=1)
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(minutes=5)
_MAX_FIELDS = 100


class ScanEndpoints:
    """`outbound` is what may be scanned, `trust` what certificates are verified with."""

    def __init__(self, outbound: Outbound, trust: Trust, clock: Clock) -> None:
        self._outbound = outbound
        self._trust = trust
        self._clock = clock
        self._free = threading.BoundedSemaphore(MAX_SCANS)

    async def scan(self, call: Call) -> Success:
        """Scan `host` with the scanners that match `family` and `scanner`."""
        try:
            fields = parse_qs(call.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except ValueError as err:
            raise BadRequest(str(err)) from None
        given = {name: values[0] for name, values in fields.items()}
        timeout = _timeout(given.get("timeout", ""))
        host = given.get("host", "")
        if not host:
            raise BadRequest("no host given")
        choice = Choice(family=given.get("family", ""), scanner=given.get("scanner", ""), ranges=False)
        return Success(await wait_outside(lambda: self._scan(host, choice, timeout, given.get("ip", ""))))

    def _scan(self, host: str, choice: Choice, timeout: timedelta, address: str) -> Scan:
        if not self._free.acquire(blocking=False):
            raise HTTPStatusError(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many concurrent scans", headers={"Retry-After": "10"}
            )
        try:
            return run_scan(
                host,
                choice,
                timeout,
                address=address,
                outbound=self._outbound,
                trust=self._trust,
                clock=self._clock,
                ended=self._free.release,
            )
        except OCSPDError as err:
            raise BadRequest(str(err)) from None


async def scaninfo(_body: bytes) -> Success:
    """List families and scanners."""
    return Success(describe_families())


def _timeout(text: str) -> timedelta:
    if not text:
        return _DEFAULT
    try:
        timeout = parse_duration(text)
    except DurationError as err:
        raise BadRequest(str(err)) from None
    if not _SHORTEST <= timeout <= _LONGEST:
        raise BadRequest("invalid timeout given")
    return timeout
