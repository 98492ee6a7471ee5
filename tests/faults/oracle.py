"""The oracle: do the generations that were published keep the invariants, given what was committed?

It knows two things: what the rows of each certificate said, and when (`committing`), and what each
generation answers (`observe`, or `watching` for a signer in another process). From them it tells
(`violations`)

 1. a "good" in a generation published more than the bound after the rows stopped saying good;
 2. the same for certificates of several rows: good counts only if every row says good, and a single
    revoked one makes the certificate revoked whatever the others say;
 4. an answer that is older than one published before, or gone before it had expired, or a generation
    with a lower number.

`unanswered` is about the end: whether what was committed last is answered. Times are seconds of any one
clock, monotonic or not; a commit is two of them, as nobody knows when in between it became visible.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError
from ocspd.pki.certid import issuer_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from cryptography import x509

    from ocspd._index import Index
    from ocspd.index.directory import IndexDirectory
    from ocspd.index.manifest import Manifest

GOOD, REVOKED, UNKNOWN, NOTHING = "good", "revoked", "unknown", "nothing"
_WORDS = (GOOD, REVOKED, UNKNOWN)
CertID = tuple[int, int]
"""Which of the issuers, and the serial number."""


def combined(words: Collection[str]) -> str:
    """Return what the rows of one certificate say together; a word that is none of CFSSL's is unknown."""
    if not words:
        return NOTHING
    if REVOKED in words:
        return REVOKED
    return GOOD if set(words) == {GOOD} else UNKNOWN


@dataclass(frozen=True, slots=True)
class _State:
    """From when on, at the earliest and at the latest, the rows said something."""

    status: str
    begun: float
    done: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a generation answered."""

    at: float
    generation: int
    status: str
    this_update: int = 0
    next_update: int = 0
    produced_at: int = 0


@dataclass(slots=True)
class Oracle:
    """See the module; `issuers` are the CA certificates, `bound_s` how late an answer may be."""

    issuers: Sequence[x509.Certificate]
    bound_s: float = 1.0
    clock: Callable[[], float] = time.time
    hash_names: tuple[str, ...] = ("sha1",)
    wall_clock: Callable[[], float] = time.time
    """What expiry is judged by."""
    _states: dict[CertID, list[_State]] = field(default_factory=lambda: defaultdict(list))
    _seen: dict[tuple[CertID, str], list[_Seen]] = field(default_factory=lambda: defaultdict(list))
    _generation: int = -1
    _problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def committing(self, issuer: int, serial: int, words: Collection[str]) -> Iterator[None]:
        """Note a commit, which is what the block does; afterwards the certificate's rows say `words`."""
        begun = self.clock()
        yield
        self.committed(issuer, serial, words, begun=begun)

    def committed(self, issuer: int, serial: int, words: Collection[str], begun: float | None = None) -> None:
        """Note a commit that was begun at a time and has ended now."""
        done = self.clock()
        state = _State(combined(words), done if begun is None else begun, done)
        with self._lock:
            self._states[issuer, serial].append(state)

    def observe(self, directory: IndexDirectory, manifest: Manifest) -> None:
        """Note what a generation answers; for `Generations.published`, and for readers of a manifest."""
        at = self.clock()
        with self._lock:
            if manifest.generation < self._generation:
                self._problems.append(
                    f"generation {manifest.generation} was published after {self._generation}"
                )
            self._generation = manifest.generation
            certids = list(self._states)
        index = directory.open(manifest)
        for certid in certids:
            for name in self.hash_names:
                seen = self._look(index, certid, name, at, manifest.generation)
                with self._lock:
                    self._seen[certid, name].append(seen)

    def _look(self, index: Index, certid: CertID, name: str, at: float, generation: int) -> _Seen:
        number, serial = certid
        found = index.lookup(name, *issuer_hashes(self.issuers[number], name), serial)
        if found is None:
            return _Seen(at, generation, NOTHING)
        return _Seen(
            at, generation, _WORDS[found.status], found.this_update, found.next_update, found.produced_at
        )

    @contextlib.contextmanager
    def watching(self, directory: IndexDirectory, *, every_s: float = 0.01) -> Iterator[None]:
        """Observe every generation another process publishes while the block runs, as far as it is seen."""
        ended = threading.Event()

        def watch() -> None:
            known = -1
            while True:
                last = ended.is_set()
                with contextlib.suppress(IndexFileError):
                    manifest = directory.manifest()
                    if manifest is not None and manifest.generation != known:
                        self.observe(directory, manifest)
                        known = manifest.generation
                if last:
                    return
                ended.wait(every_s)

        thread = threading.Thread(target=watch, name="oracle")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    # -- the verdict -------------------------------------------------------------------------------

    def violations(self) -> list[str]:
        """Return what was published against invariants 1, 2 and 4; the newest answer is judged as of now."""
        now = self.clock()
        problems = list(self._problems)
        for (certid, name), seen in self._seen.items():
            what = f"serial {certid[1]} of issuer {certid[0]} ({name})"
            for number, one in enumerate(seen):
                # a generation is served until the next one, or still
                until = seen[number + 1].at if number + 1 < len(seen) else now
                if one.status == GOOD:
                    problems += self._not_good(certid, one, what, until)
            problems += self._went_back(seen, what)
        return problems

    def _not_good(self, certid: CertID, one: _Seen, what: str, until: float) -> Iterator[str]:
        # what the rows said before anybody noted it may have been good
        states = [_State(GOOD, float("-inf"), float("-inf")), *self._states[certid]]
        for moment in (one.at, until):
            ends = [state.done for state in states[1:]] + [float("inf")]
            if not any(
                state.status == GOOD and state.begun <= moment <= end + self.bound_s
                for state, end in zip(states, ends, strict=True)
            ):
                said = max(
                    (state for state in states if state.done <= moment),
                    key=lambda s: s.done,
                    default=states[0],
                )
                yield (
                    f"{what}: generation {one.generation} says good at {moment:.3f}, but the rows have said "
                    f"{said.status} since {said.done:.3f}"
                )
                return

    def _went_back(self, seen: Sequence[_Seen], what: str) -> Iterator[str]:
        newest: _Seen | None = None
        for one in seen:
            if one.status == NOTHING:
                if newest is not None and newest.next_update > self.wall_clock() + 1:
                    yield f"{what}: generation {one.generation} has no answer, {newest.generation} had one"
                newest = None
                continue
            if newest is not None and (one.this_update, one.produced_at) < (
                newest.this_update,
                newest.produced_at,
            ):
                yield (
                    f"{what}: generation {one.generation} answers {one.status} of {one.this_update}, "
                    f"which is older than {newest.status} of {newest.this_update} in generation "
                    f"{newest.generation}"
                )
            newest = one

    def unanswered(self, besides: Callable[[CertID], bool] = lambda _: False) -> list[str]:
        """Return certificates whose newest answer is not what their rows say; deleted ones are not good.

        `besides` tells those that need no answer.
        """
        problems = []
        for certid, states in self._states.items():
            if besides(certid):
                continue
            wanted = states[-1].status
            for name in self.hash_names:
                seen = self._seen.get((certid, name))
                status = seen[-1].status if seen else NOTHING
                if status != wanted and not (wanted == NOTHING and status != GOOD):
                    problems.append(
                        f"serial {certid[1]} of issuer {certid[0]} ({name}): answered {status}, not {wanted}"
                    )
        return problems
