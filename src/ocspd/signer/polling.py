"""When to read a database again that has changed and does not record how (`certdb.feed_polled`).

A pass finds what changed, and a sweep what was deleted. Each may take a tenth of the time: after one that
took T seconds the next begins 9 T seconds later at the earliest.
"""

from __future__ import annotations

import asyncio

_REST = 9
"""How many times longer than a pass or a sweep the pause after it is."""


class Polling:
    """The passes and sweeps of one daemon."""

    def __init__(self, pass_wanted: asyncio.Event) -> None:
        """`pass_wanted` is set when a pass is to begin."""
        self._pass_wanted = pass_wanted
        self._polls = False
        self._changed = False  # since the last pass began
        self._passing = False
        self._pass_after = 0.0
        self._sweep_after = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Have a pass begin as soon as it may: the database has changed since the last one began."""
        self._polls = self._changed = True
        if not self._passing:
            self._want_pass(self._pass_after)

    def may_sweep(self) -> bool:
        """Return whether a sweep may begin."""
        return asyncio.get_running_loop().time() >= self._sweep_after

    def pass_begins(self) -> None:
        """Note that what has changed so far will be found."""
        self._changed = False
        self._passing = True
        if self._timer is not None:
            self._timer.cancel()

    def sweep_ended(self, seconds: float) -> None:
        """Note how long a sweep took."""
        if self._polls:
            self._sweep_after = asyncio.get_running_loop().time() + _REST * seconds

    def pass_ended(self, seconds: float, *, sweep_due: bool) -> None:
        """Note how long a pass took, without its sweep, and whether it left the sweep to a later one."""
        self._passing = False
        self._pass_after = asyncio.get_running_loop().time() + _REST * seconds
        if self._changed:
            self._want_pass(self._pass_after)
        elif sweep_due and self._polls:
            self._want_pass(max(self._pass_after, self._sweep_after))

    def _want_pass(self, moment: float) -> None:
        if self._timer is not None:  # a busy database has changed at each look
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(moment, loop.time()), self._pass_wanted.set)
