"""CFSSL's families of scanners, and one scan: all chosen scanners at the same time, until a deadline."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocspd.authority.fetching import Deadline
from ocspd.authority.hosts import is_address, split_host
from ocspd.authority.scanning import broad, chain, connectivity, handshake, session
from ocspd.authority.scanning.target import Found, Grade, Target, Trust
from ocspd.errors import ConfigError, OCSPDError
from ocspd.logs import logger
from ocspd.pki.go_regexp import compiled
from ocspd.shown import shown
from ocspd.wire import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from ocspd.authority.fetching import Outbound
    from ocspd.clock import Clock

Scan = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scanner:
    """One scanner: CFSSL's description of it, and what it does."""

    description: str
    run: Callable[[Target], Found]


@dataclass(frozen=True, slots=True)
class Family:
    """Scanners that belong together, by name."""

    description: str
    scanners: Mapping[str, Scanner]


FAMILIES: Mapping[str, Family] = {
    "Broad": Family(
        "Large scale scans of TLS hosts",
        {
            "IntermediateCAs": Scanner(
                "Scans a CIDR IP range for unknown Intermediate CAs", broad.intermediate_cas
            )
        },
    ),
    "Connectivity": Family(
        "Scans for basic connectivity with the host through DNS and TCP/TLS dials",
        {
            "CloudFlareStatus": Scanner("Host is on CloudFlare", connectivity.cloudflare_status),
            "DNSLookup": Scanner("Host can be resolved through DNS", connectivity.dns_lookup),
            "TCPDial": Scanner("Host accepts TCP connection", connectivity.tcp_dial),
            "TLSDial": Scanner("Host can perform TLS handshake", connectivity.tls_dial),
        },
    ),
    "PKI": Family(
        "Scans for the Public Key Infrastructure",
        {
            "ChainExpiration": Scanner(
                "Host's chain hasn't expired and won't expire in the next 30 days", chain.chain_expiration
            ),
            "ChainValidation": Scanner("All certificates in host's chain are valid", chain.chain_validation),
            "MultipleCerts": Scanner(
                "Host serves same certificate chain across all IPs", chain.multiple_certs
            ),
        },
    ),
    "TLSHandshake": Family(
        "Scans for host's SSL/TLS version and cipher suite negotiation",
        {
            "CertsByCiphers": Scanner(
                "Determines host's certificate signature algorithm matching client's accepted ciphers",
                handshake.certs_by_ciphers,
            ),
            "CertsBySigAlgs": Scanner(
                "Determines host's certificate signature algorithm matching client's accepted signature and "
                "hash algorithms",
                handshake.certs_by_sig_algs,
            ),
            "CipherSuite": Scanner(
                "Determines host's cipher suites accepted and preferred order", handshake.cipher_suite
            ),
            "ECCurves": Scanner("Determines the host's ec curve support for TLS 1.2", handshake.ec_curves),
            "SigAlgs": Scanner(
                "Determines host's accepted signature and hash algorithms", handshake.sig_algs
            ),
        },
    ),
    "TLSSession": Family(
        "Scans host's implementation of TLS session resumption using session tickets/session IDs",
        {
            "SessionResume": Scanner(
                "Host is able to resume sessions across all addresses", session.session_resume
            )
        },
    ),
}
"""By name, alphabetically, as CFSSL's JSON has them."""


def describe_families() -> dict[str, Any]:
    """Return what `scan -list` and `scaninfo` show."""
    return {
        name: {
            "description": family.description,
            "scanners": {each: {"description": one.description} for each, one in family.scanners.items()},
        }
        for name, family in FAMILIES.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which scanners to run: those whose names two RE2 expressions are found in, "" being found in all."""

    family: str = ""
    scanner: str = ""
    ranges: bool = True
    """Whether a range of addresses may be scanned."""

    def check(self) -> None:
        """Raise ConfigError when one of them is not an expression."""
        compiled(self.family)
        compiled(self.scanner)

    def chosen(self) -> list[tuple[str, str, Scanner]]:
        """Return family, name and scanner of each."""
        families, scanners = compiled(self.family), compiled(self.scanner)
        return [
            (name, each, scanner)
            for name, family in FAMILIES.items()
            if families.is_in(name)
            for each, scanner in family.scanners.items()
            if scanners.is_in(each)
        ]


class _Users:
    """Counts who works on a scan, the one who asked for it and the scanners; the last calls `ended`."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._count = 1
        self._lock = threading.Lock()

    def join(self) -> None:
        """Count one more, while somebody is counted."""
        with self._lock:
            self._count += 1

    def leave(self) -> None:
        """Count one less."""
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._ended()


def run_scan(  # noqa: PLR0913  (what CFSSL's command line has)
    host: str,
    choice: Choice,
    timeout: timedelta,
    *,
    address: str = "",
    outbound: Outbound,
    trust: Trust,
    clock: Clock,
    ended: Callable[[], None] = lambda: None,
) -> Scan:
    """Run the chosen scanners on a host at the same time; return what those found that ended in time.

    ConfigError when the host or an expression cannot be used. `address` that is not an IP address is
    ignored, as in CFSSL. Takes no longer than `timeout`; a scanner that has not ended by then ends soon
    after, because all of its connections have the same deadline. `ended` is called once, as soon as this has
    nothing more to do and no scanner runs any longer.
    """
    users = _Users(ended)
    try:
        return _scan(host, choice, timeout, address, outbound, trust, clock, users)
    finally:
        users.leave()


def _scan(  # noqa: PLR0913, PLR0917  (as above)
    host: str,
    choice: Choice,
    timeout: timedelta,
    address: str,
    outbound: Outbound,
    trust: Trust,
    clock: Clock,
    users: _Users,
) -> Scan:
    scanners = choice.chosen()
    if "/" in host and not choice.ranges:
        raise ConfigError(f"{shown(host)}: a range of addresses is scanned from the command line only")
    name, port = split_host(host)
    deadline = Deadline(timeout.total_seconds())
    target = Target(
        host=name,
        port=port,
        address=address if is_address(address) else "",
        outbound=outbound,
        deadline=deadline,
        trust=trust,
        clock=clock,
    )
    done: queue.SimpleQueue[tuple[str, str, Found]] = queue.SimpleQueue()
    for family, each, scanner in scanners:
        users.join()
        work = threading.Thread(
            target=_run, args=(family, each, scanner, target, done, users), name=f"scan {each}", daemon=True
        )
        try:
            work.start()
        except RuntimeError:
            users.leave()
            text = "there cannot be more threads: scan fewer hosts at once (-num-workers)"
            raise OCSPDError(text) from None
    found: Scan = {}
    for _ in scanners:
        try:
            family, each, result = done.get(timeout=deadline.remaining())
        except (queue.Empty, OCSPDError):
            logger.warning("Scan timed out after %s", format_duration(timeout))
            break
        found.setdefault(family, {})[each] = result.as_json()
    return {family: dict(sorted(results.items())) for family, results in sorted(found.items())}


def _run(  # noqa: PLR0913, PLR0917  (what a scanner consists of, and whom it reports to)
    family: str,
    name: str,
    scanner: Scanner,
    target: Target,
    done: queue.SimpleQueue[tuple[str, str, Found]],
    users: _Users,
) -> None:
    try:
        result = scanner.run(target)
    except OCSPDError as err:
        result = Found(Grade.BAD, error=str(err))
    except Exception as err:  # noqa: BLE001  (a server may send anything: a defect here is one scanner's)
        logger.error("scanner %s: unexpected %s: %s", name, type(err).__name__, err)
        result = Found(Grade.BAD, error="internal error, see the log")
    finally:
        users.leave()
    done.put((family, name, result))
