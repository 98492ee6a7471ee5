"""Check an audit log: every number, digest, signature, and that nothing is missing at the end.

What is found, with file and line:

    changed        the next entry carries another SHA-256 than the entry has
    removed        numbers are missing
    re-ordered     a number comes after a higher one, or twice
    cut off        the newest checkpoint known (kept beside the log, or elsewhere) is not in the log
    rewritten      the digests fit, but a checkpoint is missing where it is due, or not signed with the key
    foreign        a line is not an entry

Entries after the last checkpoint are chained but not signed yet: whoever can write to the file can rewrite
those, and they are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.authority.audit import chain, reading
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ocspd.authority.audit.reading import Line, LogPart
    from ocspd.pki.seals import SealCheck


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and where; line 0 means the whole file, or what is not there."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        """Return the line for people."""
        return f"{self.path}:{self.line}: {self.text}" if self.line else f"{self.path}: {self.text}"


@dataclass(slots=True)
class Report:
    """The result: the log is whole if there are no `problems`."""

    files: int = 0
    entries: int = 0
    first: int = 0
    last: int = 0
    checkpoints: int = 0
    unsigned: int = 0
    """Entries after the last checkpoint."""
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class _Gap:
    first: int
    last: int
    at: Finding


class _Verifier:
    def __init__(self, check: SealCheck | None, begin: int) -> None:
        self.report = Report()
        self._check = check
        self._highest = begin - 1
        self._before: tuple[Finding, chain.Entry] | None = None
        self._gaps: list[_Gap] = []
        self._every = 0
        self._sealed = 0
        self._begin = begin
        self._wanted: dict[int, str] = {}
        """Known checkpoints: number and SHA-256."""
        self._found: set[int] = set()

    def want(self, checkpoint: chain.Entry) -> None:
        self._wanted[checkpoint.number] = checkpoint.digest

    def read(self, part: LogPart, *, is_last: bool) -> None:
        self.report.files += 1
        for line in reading.lines(part):
            where = Finding(part.path, line.number, "")
            try:
                if not line.complete:
                    raise ValueError("it is torn: its end is missing")  # noqa: TRY301  (one kind of problem)
                entry = chain.parse(line.data)
            except ValueError as err:
                self._foreign(where, line, str(err), is_last=is_last and not line.complete)
                continue
            self._entry(where, entry)

    def _foreign(self, where: Finding, line: Line, why: str, *, is_last: bool) -> None:
        hint = ": the next start of the server moves it away" if is_last else ""
        self._problem(where, f"this line of {len(line.data)} bytes is not an entry: {why}{hint}")

    def _entry(self, where: Finding, entry: chain.Entry) -> None:
        report = self.report
        report.entries += 1
        report.first = report.first or entry.number
        expected = self._highest + 1
        if entry.number > expected:
            self._gaps.append(_Gap(expected, entry.number - 1, where))
        elif entry.number < expected:
            self._out_of_order(where, entry.number)
        self._link(where, entry)
        if entry.event == "checkpoint":
            self._checkpoint(where, entry)
        elif self._every and entry.number % self._every == 0:
            self._problem(
                where, f"entry {entry.number} has to be a checkpoint: the entries before it were rewritten"
            )
        if entry.event == "torn":
            report.notes.append(_at(where, f"entry {entry.number}: a torn line was {_kept(entry)}"))
        if entry.event == "recovered":
            since, reason = (shown(str(entry.fields.get(name)), 1000) for name in ("since", "reason"))
            report.notes.append(
                _at(where, f"entry {entry.number}: the log could not be written from {since} on: {reason}")
            )
        self._highest = max(self._highest, entry.number)
        self._before = (where, entry)

    def _link(self, where: Finding, entry: chain.Entry) -> None:
        """Compare with the digest of the entry before, if that is the line before."""
        if entry.number == 1:
            if entry.previous != chain.GENESIS:
                self._problem(where, "entry 1 was changed: it does not begin a chain")
            return
        if self._before is None or self._before[1].number != entry.number - 1:
            return
        place, before = self._before
        if before.digest != entry.previous:
            self._problem(
                place,
                f"entry {before.number} was changed: entry {entry.number} carries another SHA-256 of it",
            )

    def _checkpoint(self, where: Finding, entry: chain.Entry) -> None:
        report = self.report
        report.checkpoints += 1
        if self._check is None:
            self._sealed = entry.number
        else:
            try:
                chain.check_checkpoint(entry, self._check)
            except ValueError as err:
                self._problem(where, f"entry {entry.number}: this checkpoint does not count: {err}")
                return
            self._sealed = max(self._sealed, entry.number)
        every = entry.fields.get("every")
        self._every = every if isinstance(every, int) and every > 0 else self._every
        wanted = self._wanted.get(entry.number)
        self._found.add(entry.number)
        if wanted is not None and wanted != entry.digest:
            self._problem(
                where,
                f"entry {entry.number}: another checkpoint with this number is known: the log was rewritten",
            )

    def _out_of_order(self, where: Finding, number: int) -> None:
        for gap in self._gaps:
            if gap.first <= number <= gap.last:
                self._gaps.remove(gap)
                self._gaps += [
                    rest
                    for rest in (_Gap(gap.first, number - 1, gap.at), _Gap(number + 1, gap.last, gap.at))
                    if rest.first <= rest.last
                ]
                self._problem(where, f"entry {number} comes after entry {self._highest}: out of order")
                return
        self._problem(where, f"entry {number} is here twice, or was put in: entry {self._highest} is before")

    def finish(self, last: Path) -> Report:
        report = self.report
        report.last = self._highest if report.entries else 0
        for gap in self._gaps:
            which = (
                f"entry {gap.first} is" if gap.first == gap.last else f"entries {gap.first} to {gap.last} are"
            )
            hint = ""
            if gap.first == self._begin:
                hint = ": name the older files too, or say where the log begins (-from)"
            self._problem(gap.at, f"{which} missing before this line{hint}")
        for number in sorted(self._wanted):
            if number > report.last:
                self._problem(
                    Finding(last, 0, ""),
                    f"entries are missing at the end: the last one is {report.last}, but there was a "
                    f"checkpoint with the number {number}",
                )
            elif number not in self._found and number >= self._begin:
                self._problem(Finding(last, 0, ""), f"the checkpoint with the number {number} is missing")
        if report.entries and self._check is not None and not self._sealed:
            self._problem(Finding(last, 0, ""), "no checkpoint is signed with this key")
        report.unsigned = max(0, report.last - max(self._sealed, self._begin - 1))
        if self._every and report.unsigned > self._every:
            self._problem(
                Finding(last, 0, ""), f"the last {report.unsigned} entries are covered by no checkpoint"
            )
        report.problems.sort(key=lambda finding: (finding.line == 0,))
        return report

    def _problem(self, where: Finding, text: str) -> None:
        self.report.problems.append(_at(where, text))


def verify(
    parts: Sequence[LogPart],
    *,
    check: SealCheck | None = None,
    known: Sequence[chain.Entry] = (),
    begin: int = 1,
) -> Report:
    """Read the files of a log in order and report what is wrong with them.

    `check` is the key of checkpoints, without which signatures are not checked; `known` are checkpoints
    that were kept elsewhere; `begin` is the number of the first entry there should be. OCSPDError when a
    file cannot be read.
    """
    verifier = _Verifier(check, begin)
    for checkpoint in known:
        verifier.want(checkpoint)
    for position, part in enumerate(parts, 1):
        verifier.read(part, is_last=position == len(parts))
    return verifier.finish(parts[-1].path)


def _at(where: Finding, text: str) -> Finding:
    return Finding(where.path, where.line, text)


def _kept(entry: chain.Entry) -> str:
    size, name = (shown(str(entry.fields.get(name)), 300) for name in ("bytes", "kept"))
    return f"moved to {name} ({size} bytes): the server was stopped while it wrote, and nobody got an answer"
