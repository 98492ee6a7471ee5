"""What must never happen, whatever happens: looked for in everything that is published and served.

 1. good after revoked: a reader's answer says good although the rows have not said so for longer than the
    bound, or goes from something else back to good that the rows had left before.
 2. a response is lost: a reader has none for a certificate that it had one for, or the rows know for longer
    than the bound.
 3. an index does not open: at any step of any process, after any power cut; or a manifest in the store names
    what is not there.
 4. what is published goes back: a generation is published twice, or a reader's response gets older.

Bounds count while nothing is broken: from the commit, or from the end of the last fault, if that was later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError
from ocspd.index.directory import IndexDirectory
from ocspd.index.manifest import MANIFEST_NAME, parse_manifest
from ocspd.pki.certid import issuer_hashes
from ocspd.pki.signing_policy import MAX_AHEAD
from tests.faults.oracle import GOOD, NOTHING, combined

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from ocspd._index import Index, StoredResponse
    from ocspd.index.manifest import Manifest
    from ocspd.pki.ocsp import OCSPSigner
    from tests.simulation.clock import SimulatedClock

_PUBLISHED = "what is published"
WORDS = ("good", "revoked", "unknown")
FEED_S = 10.0
"""How long a change may take to be served where it was signed."""
PULL_S = 40.0
"""How much longer it may take elsewhere: pauses grow to 30 s while a store refuses."""
RESTORE_S = 40.0
"""How much longer after the database was put back: a pass and a sweep have to find what has changed."""


@dataclass(frozen=True, slots=True)
class _State:
    """Since when the rows of a certificate say something together."""

    status: str
    since: float


@dataclass(slots=True)
class _Reader:
    """What somebody serves."""

    bound_s: float
    behind_s: float
    generation: tuple[str, int] = ("", -1)
    answers: dict[int, StoredResponse | None] = field(default_factory=dict)
    not_good_since: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Judge:
    """See the module."""

    signer: OCSPSigner
    clock: SimulatedClock
    time: Callable[[], float]
    note: Callable[[str], None]
    violations: list[str] = field(default_factory=list)
    found: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first of them, which is the one that tells most."""
    calm_since: float = 0.0
    """When the last fault ended; infinite while there is one."""
    published: dict[str, int] = field(default_factory=dict)
    """The highest generation of each index."""
    _faults: int = 0
    _states: dict[int, list[_State]] = field(default_factory=lambda: defaultdict(list))
    _broken_off_at: float = float("-inf")
    _readers: dict[str, _Reader] = field(default_factory=dict)
    _most_ahead: timedelta = timedelta(0)
    _times_count: bool = True
    _named: dict[Path, set[str]] = field(default_factory=dict)
    _prefix: tuple[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._readers[_PUBLISHED] = _Reader(FEED_S, 0.0)
        self._prefix = issuer_hashes(self.signer.issuer, "sha1")

    def violated(self, what: str) -> None:
        """Note a violation."""
        self.note(f"VIOLATION: {what}")
        self.violations.append(f"{self.time():.3f} s: {what}")
        self.found.set()

    # -- what happens ----------------------------------------------------------------------------

    def begins(self, fault: str) -> None:
        """Note that something is broken from now on."""
        self.note(f"fault: {fault}")
        self._faults += 1
        self.calm_since = float("inf")

    def ends(self, fault: str) -> None:
        """Note that it works again."""
        self.note(f"over: {fault}")
        self._faults -= 1
        if not self._faults:
            self.calm_since = self.time()

    def happens(self, fault: str) -> None:
        """Note a fault that is over at once."""
        self.begins(fault)
        self.ends(fault)

    def clock_is_set(self) -> None:
        """Note that the clock was set: far enough back, and responses are older from now on than before."""
        self._most_ahead = max(self._most_ahead, self.clock.ahead)
        if self._most_ahead - self.clock.ahead >= MAX_AHEAD:
            self._times_count = False

    def committed(self, serial: int, words: Collection[str]) -> None:
        """Note what the rows of a certificate say from now on."""
        status = combined(words)
        states = self._states[serial]
        if not states or states[-1].status != status:
            self.note(f"rows of {serial} say {status}")
            states.append(_State(status, self.time()))

    def breaks_off(self) -> None:
        """Note that what was committed so far is in no change feed."""
        self._broken_off_at = self.time()

    def publishes(self, index: Index, manifest: Manifest) -> None:
        """Note a generation that a signer has published."""
        self.note(f"published: generation {manifest.generation}, {len(manifest.segments)} segments")
        highest = self.published.get(manifest.index_id, -1)
        if manifest.generation <= highest:
            self.violated(f"generation {manifest.generation} is published after generation {highest}")
        self.published[manifest.index_id] = max(highest, manifest.generation)
        self._look_into(_PUBLISHED, index, manifest)

    def changed(self, path: Path) -> None:
        """See that an index opens in which a file has come or gone."""
        if path.name == MANIFEST_NAME or (
            path.suffix == ".seg" and path.name in self._named.get(path.parent, ())
        ):
            self.opens(path.parent)

    def opens(self, path: Path, *, after: str = "", verify: bool = False) -> None:
        """See that an index opens, or that there is none yet."""
        directory = IndexDirectory(path)
        try:
            manifest = directory.manifest()
            self._named[path] = {ref.file_name for ref in manifest.segments} if manifest else set()
            if manifest is not None:
                directory.open(manifest)
            for ref in manifest.segments if manifest and verify else ():
                directory.verify(ref)
        except IndexFileError as err:
            self.violated(f"an index does not open{after}: {str(err).replace(str(path.parent), '')}")

    def stored(self, name: str, data: bytes, sizes: Mapping[str, int]) -> None:
        """See that a manifest in the store names what is there, whole."""
        if name == MANIFEST_NAME:
            with contextlib.suppress(IndexFileError):  # half of one
                for ref in parse_manifest(data, name).segments:
                    if sizes.get(ref.file_name) != ref.size_bytes:
                        self.violated("the store has a manifest that names what is not there")

    def tells_old_from_new(self) -> bool:
        """Whether a reader can: what was published later is newer, unless the clock was set back."""
        return self._times_count

    # -- what is served --------------------------------------------------------------------------

    def starts(self, name: str, bound_s: float, behind_s: float) -> None:
        """Note that a reader starts, which knows nothing of what it served before."""
        self._readers[name] = _Reader(bound_s, behind_s)

    def stops(self, name: str) -> None:
        """Note that a reader is gone."""
        self._readers.pop(name, None)

    def serves(self, name: str, index: Index, manifest: Manifest) -> None:
        """Look at a generation that a reader uses from now on."""
        self.note(f"{name} serves generation {manifest.generation}")
        self._look_into(name, index, manifest)

    def _look_into(self, name: str, index: Index, manifest: Manifest) -> None:
        reader = self._readers[name]
        index_id, generation = reader.generation
        if index_id == manifest.index_id and manifest.generation < generation:
            self.violated(f"{name} goes back from generation {generation} to {manifest.generation}")
        reader.generation = manifest.index_id, manifest.generation
        for serial in self._states:
            self._answers(name, reader, serial, self._lookup(index, serial))
        self.look()

    def _lookup(self, index: Index, serial: int) -> StoredResponse | None:
        return index.lookup("sha1", *self._prefix, serial)

    def _answers(self, name: str, reader: _Reader, serial: int, answer: StoredResponse | None) -> None:
        before, reader.answers[serial] = reader.answers.get(serial), answer
        now_s = self.clock.now().timestamp()
        if answer is None:
            if before is not None and before.next_update > now_s:
                self.violated(f"{name} has lost the response about {serial}")
            return
        if before is not None and self._times_count and _times(answer) < _times(before):
            self.violated(f"{name} goes back to an older response about {serial}")
        if WORDS[answer.status] != GOOD:
            reader.not_good_since.setdefault(serial, self.time())
            return
        since = reader.not_good_since.pop(serial, float("-inf")) - reader.behind_s
        if self._was_good_until(serial) < since:
            self.violated(f"{name} says {serial} is good again, which its rows have not said since")

    def _was_good_until(self, serial: int) -> float:
        """Return until when the rows said good, at the latest."""
        states = self._states[serial]
        if states[-1].status == GOOD:
            return float("inf")
        return next(
            (
                after.since
                for one, after in zip(states[-2::-1], states[::-1], strict=False)
                if one.status == GOOD
            ),
            -1.0,
        )

    def look(self) -> None:
        """Look whether anything has been served for too long."""
        for name, reader in self._readers.items():
            for problem in self._overdue(reader):
                self.violated(f"{name}: {problem}")

    def _overdue(self, reader: _Reader) -> Iterator[str]:
        now, now_s = self.time(), self.clock.now().timestamp()
        for serial, states in self._states.items():
            since = max(states[-1].since, self.calm_since)
            bound_s = reader.bound_s
            if states[-1].since <= self._broken_off_at:
                since, bound_s = max(since, self._broken_off_at), bound_s + RESTORE_S
            if now - since <= bound_s:
                continue
            answer, wanted = reader.answers.get(serial), states[-1].status
            if answer is None:
                if wanted != NOTHING:
                    yield f"no response about {serial}, which is {wanted}, for {now - since:.0f} s"
            elif answer.next_update <= now_s:
                if wanted != NOTHING:
                    yield f"the response about {serial} has expired {now_s - answer.next_update:.0f} s ago"
            elif WORDS[answer.status] != wanted and not (wanted == NOTHING and answer.status != 0):
                yield (
                    f"says {WORDS[answer.status]} about {serial}, whose rows say {wanted} "
                    f"for {now - since:.0f} s in which all is well"
                )


def _times(answer: StoredResponse) -> tuple[int, int]:
    return answer.this_update, answer.produced_at
