"""The family Broad: a range of addresses is searched for intermediate CAs."""

from __future__ import annotations

import dataclasses
import ipaddress
import queue
import threading
from typing import TYPE_CHECKING

from ocspd.authority.scanning.target import Found, Grade, read_chain
from ocspd.errors import FetchError, OCSPDError
from ocspd.pki import names
from ocspd.pki.certid import parts_of

if TYPE_CHECKING:
    from ocspd.authority.scanning.target import Target

MAX_ADDRESSES = 65536
_WORKERS = 32


def intermediate_cas(target: Target) -> Found:
    """List the CAs that the hosts of an address range serve with their certificates; no range: skipped."""
    try:
        network = ipaddress.ip_network(target.host, strict=False)
    except ValueError:
        return Found(Grade.SKIPPED)
    if "/" not in target.host:
        return Found(Grade.SKIPPED)
    if network.num_addresses > MAX_ADDRESSES:
        text = f"{network} has {network.num_addresses} addresses, more than the limit of {MAX_ADDRESSES}"
        return Found(Grade.BAD, error=text)
    return Found(Grade.GOOD, sorted(_Search(target, network).run()) or None)


class _Search:
    """A search of every address of a network, by several threads."""

    def __init__(self, target: Target, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        self._target = target
        self._addresses = iter(network)
        self._lock = threading.Lock()
        self._found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def run(self) -> set[str]:
        """Return the subjects of all certificates but the first of each host."""
        for _ in range(_WORKERS):
            threading.Thread(target=self._work, daemon=True).start()
        subjects: set[str] = set()
        running = _WORKERS
        while running:
            subject = self._found.get()
            if subject is None:
                running -= 1
            else:
                subjects.add(subject)
        return subjects

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    address = next(self._addresses, None)
                if address is None:
                    return
                self._target.deadline.remaining()
                self._ask(str(address))
        except FetchError:  # the scan's time is over
            return
        finally:
            self._found.put(None)

    def _ask(self, address: str) -> None:
        one = dataclasses.replace(self._target, host=address, address="")
        try:
            for certificate in read_chain(one)[1:]:
                self._found.put(names.to_text(parts_of(certificate).subject))
        except OCSPDError:
            return  # nobody there, or nobody who speaks TLS
