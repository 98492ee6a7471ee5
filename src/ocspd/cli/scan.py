"""The verb `scan`."""

from __future__ import annotations

import csv
import queue
import threading
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.cli.io import read_input, write_stdout
from ocspd.cli.verb import Verb
from ocspd.clock import SystemClock
from ocspd.errors import ConfigError, OCSPDError
from ocspd.logs import logger
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocspd.authority.scanning.families import Choice
    from ocspd.authority.scanning.target import Trust
    from ocspd.cli.flags import Flags

_MAX_CSV_FIELD = 1024


def _scan(flags: Flags, arguments: list[str]) -> int:
    # Not needed for help.
    from ocspd.authority.scanning.families import Choice, describe_families  # noqa: PLC0415
    from ocspd.authority.scanning.target import read_trust  # noqa: PLC0415

    if flags.boolean("list"):
        write_stdout(wire.dumps_indented(describe_families()) + "\n\n")
        return 0
    choice = Choice(family=flags.string("family"), scanner=flags.string("scanner"))
    choice.check()
    trust = read_trust(flags.string("ca-bundle"))
    hosts = _hosts(arguments, flags)
    if not hosts:
        raise ConfigError("no host given: ocspd scan HOST[:PORT] ..., or -csv with a file of them")
    _Scans(flags, choice, trust, hosts).run(flags.integer("num-workers"))
    return 0


class _Scans:
    """The scans of one command line: a few at a time, each printed as a whole."""

    def __init__(self, flags: Flags, choice: Choice, trust: Trust, hosts: Sequence[str]) -> None:
        from ocspd.authority.fetching import Outbound  # noqa: PLC0415  (as above)

        self._flags = flags
        self._choice = choice
        self._trust = trust
        self._outbound = Outbound(allow_private=True)
        self._hosts = iter(hosts)
        self._count = len(hosts)
        self._next = threading.Lock()
        self._printed = threading.Lock()
        self._failures: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(self, workers: int) -> None:
        """Scan every host; raise what a worker could not print."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(workers, self._count))]
        for thread in threads:
            thread.start()
        for _ in threads:
            failure = self._failures.get()
            if failure is not None:
                raise failure

    def _work(self) -> None:
        try:
            while True:
                with self._next:
                    host = next(self._hosts, None)
                if host is None:
                    break
                self._scan(host)
        except BaseException as err:  # noqa: BLE001  (raised again in `run`)
            self._failures.put(err)
        else:
            self._failures.put(None)

    def _scan(self, host: str) -> None:
        from ocspd.authority.scanning.families import run_scan  # noqa: PLC0415  (as above)

        name = shown(host)
        with self._printed:
            write_stdout(f"Scanning {name}...\n")
        text = ""
        try:
            results = run_scan(
                host,
                self._choice,
                self._flags.duration("timeout"),
                address=self._flags.string("ip"),
                outbound=self._outbound,
                trust=self._trust,
                clock=SystemClock(),
            )
            text = wire.dumps_indented(results) + "\n\n"
        except OCSPDError as err:
            logger.error("%s", err)
        with self._printed:
            write_stdout(f"=== {name} ===\n{text}")


def _hosts(arguments: list[str], flags: Flags) -> list[str]:
    most = flags.integer("max-hosts")
    if len(arguments) > most:
        logger.warning("Only scanning max-hosts=%d out of %d args given", most, len(arguments))
        return arguments[:most]
    name = flags.string("csv")
    return arguments if not name else [*arguments, *_from_csv(name, most - len(arguments))]


def _from_csv(name: str, most: int) -> list[str]:
    """Return the last field of each line, at most so many."""
    lines = read_input(name).decode("utf-8", "replace").splitlines()
    found = []
    try:
        for record in csv.reader(lines, skipinitialspace=True):
            host = record[-1].strip()[:_MAX_CSV_FIELD] if record else ""
            if host:
                found.append(host)
    except csv.Error as err:
        raise ConfigError(f"{name}: not CSV: {err}") from err
    if len(found) > most:
        logger.warning("Only scanning %d of the %d hosts in %s (-max-hosts)", most, len(found), name)
    return found[:most]


VERBS = (
    Verb(
        "scan",
        """ocspd scan -- scan a host for issues
Usage of scan:
        ocspd scan [-family regexp] [-scanner regexp] [-timeout duration] [-ip IPAddr] \\
                   [-num-workers num] [-max-hosts num] [-csv hosts.csv] [-ca-bundle roots.pem] HOST+
        ocspd scan -list

Arguments:
        HOST:    Host(s) to scan (including port)""",
        ("list", "family", "scanner", "timeout", "ip", "ca-bundle", "num-workers", "csv", "max-hosts"),
        _scan,
    ),
)
