"""The status of certificates from files: CRLs, `index.txt` of `openssl ca`, lists of issued serials.

The contents of the files are joined by serial (`serial_buckets`) into the rows that presigning otherwise
reads from a database. The rules:

 1. Revoked by a CRL or by index.txt is revoked; a CRL's date and reason take precedence over index.txt's.
 2. Good are only certificates that are valid in index.txt or in a list of issued serials (CA/Browser Forum
    BR §4.9.9: never "good" for a serial that was not assigned). A list of serials is only of use together
    with a CRL or an index.txt of the same issuer, which has the revocations.
 3. Certificates expired in index.txt get no response, as with a database.
 4. A CRL is valid until its nextUpdate, and responses end then at the latest, unless expired CRLs are
    allowed.
 5. A CRL or index.txt older than one used before is rejected (`seen_sources`).
 6. A CRL that cannot be used ends the import: without it a revoked certificate would become good. A line
    that cannot be used is skipped, and its serial is not good.
"""

from __future__ import annotations

import asyncio
import stat
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.certdb.base import CHUNK_ROWS
from ocspd.errors import ConfigError, OCSPDError
from ocspd.model import CertStatus, StatusRow
from ocspd.pki.certs import ski_hex
from ocspd.pki.crl import Listed, in_force, load_crls
from ocspd.signer.file_feed import FileFeed
from ocspd.signer.index_txt import LineError, check_size, lines, parse_row, parse_serial_line
from ocspd.signer.seen_sources import SeenSources
from ocspd.signer.serial_buckets import BUCKETS, BUFFER_BYTES, Claim, SerialBuckets, moment_of, split_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from ocspd.clock import Clock
    from ocspd.model import CertificateRow, OCSPRow
    from ocspd.pki.certs import Certificate
    from ocspd.pki.crl import CRLInfo, RevocationList

MAX_CRL_BYTES = 2 << 30
EXPIRED = "expired"
"""The reason for skipping rows that have no fault."""
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)
_ENTRIES_A_LOOK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerFiles:
    """The files about one issuer's certificates that do not name the issuer."""

    index_txt: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What to import. CRLs name their issuer themselves; `issuers` is in the order of the CAs."""

    crls: tuple[str, ...] = ()
    issuers: tuple[IssuerFiles, ...] = ()
    allow_expired: bool = False
    """Whether CRLs past their nextUpdate are used."""

    @property
    def paths(self) -> list[str]:
        """Every file."""
        return [
            *self.crls,
            *(path for issuer in self.issuers for path in (*issuer.index_txt, *issuer.serials)),
        ]

    @property
    def total_bytes(self) -> int:
        """How many bytes one reading processes; CRLs are read twice."""
        size = 0
        for path in (*self.crls, *self.paths):
            try:
                size += Path(path).stat().st_size
            except OSError:
                continue
        return size

    def __bool__(self) -> bool:
        return bool(self.paths)


@dataclass(slots=True)
class FileReport:
    """What was imported from one file (or one CRL of it), and what was skipped, by cause."""

    file: str
    kind: str
    taken: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    """Rows that were imported, but without some detail in the file."""
    first_bad: str = ""
    """The location of the first skipped line or entry."""


@dataclass(slots=True)
class ImportReport:
    """The result of one reading of the files."""

    files: list[FileReport] = field(default_factory=list)
    good: int = 0
    revoked: int = 0
    duplicates: int = 0
    """Statements about a serial beyond the first of the same kind."""
    conflicts: int = 0
    """Certificates that are valid in index.txt but on a CRL."""
    remarks: list[str] = field(default_factory=list)
    """Notices for the operator."""


class _StoppedError(OCSPDError):
    """The reader was told to stop."""


class FileStatus:
    """A source of status rows, with the part of `CertDB` that presigning and the signer use."""

    def __init__(  # noqa: PLR0913  (one collaborator each)
        self,
        sources: Sources,
        issuers: Callable[[], Sequence[Certificate]],
        *,
        clock: Clock,
        folder: Path,
        on_bytes: Callable[[int], None] | None = None,
        on_skip: Callable[[str, str], None] | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        """`folder`, the index directory, holds a temporary file when there are many serials.

        `buffer_bytes` is what each of its `BUCKETS` parts keeps in memory.

        `on_bytes` is called with the bytes read, of `Sources.total_bytes` in all; `on_skip` with location and
        reason of every skipped line or entry. Both are called in a thread.
        """
        self._sources = sources
        self._issuers = issuers
        self._clock = clock
        self._folder = folder
        self._on_bytes = on_bytes
        self._on_skip = on_skip
        self._buffer_bytes = buffer_bytes
        self.report = ImportReport()
        """The result of the last reading."""

    @property
    def name(self) -> str:
        """The files, for messages."""
        return ", ".join(self._sources.paths)

    def issuer_indexes(self) -> dict[str, int]:
        """Return the index of each issuer by the key identifier its rows have."""
        return {
            _key(issuer_index, issuer): issuer_index for issuer_index, issuer in enumerate(self._issuers())
        }

    async def stream_status(self, *, chunk_rows: int = CHUNK_ROWS) -> AsyncIterator[list[StatusRow]]:
        """Read the files and stream their rows, in lists of at most chunk_rows.

        ConfigError naming the file (and line) that makes the import impossible. Nothing is yielded
        before all files have been read.
        """
        issuers = list(self._issuers())
        reading = _Reading(
            self._sources,
            issuers,
            now=self._clock.now(),
            seen=SeenSources(self._folder),
            on_bytes=self._on_bytes,
            on_skip=self._on_skip,
        )
        self.report = reading.report
        keys = [_key(issuer_index, issuer) for issuer_index, issuer in enumerate(issuers)]
        with SerialBuckets(self._folder, self._buffer_bytes) as buckets:
            try:
                await asyncio.to_thread(reading.read, buckets)
                for bucket in range(BUCKETS):
                    rows = await asyncio.to_thread(reading.rows, buckets, bucket, keys)
                    for start in range(0, len(rows), chunk_rows):
                        yield rows[start : start + chunk_rows]
            finally:
                reading.stopped.set()

    async def check(self) -> None:
        """Read everything once; ConfigError as for `stream_status`."""
        async for _ in self.stream_status():
            pass

    def change_feed(self) -> FileFeed:
        """Return a feed that is lost, so that a full pass is due, whenever a file changes."""
        return FileFeed([Path(path) for path in self._sources.paths])

    async def get_certificate(self, serial: int, aki: str) -> CertificateRow | None:  # noqa: ARG002
        """Return None: files hold no certificates."""
        return None

    async def upsert_ocsp(self, rows: Sequence[OCSPRow]) -> None:  # noqa: ARG002
        """ConfigError: there is no table to write to."""
        raise ConfigError(f"{self.name}: responses cannot be written to files, only to an index")


def _key(issuer_index: int, issuer: Certificate) -> str:
    return ski_hex(issuer) or f"issuer {issuer_index + 1}"


class _Reading:
    """One reading of all files; runs in a thread."""

    def __init__(  # noqa: PLR0913  (one collaborator each)
        self,
        sources: Sources,
        issuers: Sequence[Certificate],
        *,
        now: datetime,
        seen: SeenSources,
        on_bytes: Callable[[int], None] | None,
        on_skip: Callable[[str, str], None] | None,
    ) -> None:
        self._seen = seen
        self.report = ImportReport()
        self.stopped = threading.Event()
        self._sources = sources
        self._issuers = issuers
        self._now = now
        self._now_s = int(now.timestamp())
        self._until: dict[int, datetime] = {}
        self._when_read = on_bytes
        self._on_skip = on_skip

    def _on_bytes(self, count: int) -> None:
        if self.stopped.is_set():
            raise _StoppedError("stopped")
        if self._when_read is not None:
            self._when_read(count)

    def _skip(self, file: FileReport, where: str, cause: str) -> None:
        file.skipped[cause] += 1
        file.first_bad = file.first_bad or where
        if self._on_skip is not None:
            self._on_skip(f"{file.file}: {where}", cause)

    def _file(self, name: str, kind: str) -> FileReport:
        self.report.files.append(FileReport(name, kind))
        return self.report.files[-1]

    def read(self, buckets: SerialBuckets) -> None:
        """Put every statement into buckets."""
        with_crl = self._read_crls(buckets)
        for issuer_index, (issuer, files) in enumerate(
            zip(self._issuers, self._sources.issuers, strict=True)
        ):
            subject = issuer.subject.rfc4514_string()
            newest = [self._read_index(buckets, issuer_index, Path(path)) for path in files.index_txt]
            if newest:
                self._seen.index_txt(issuer, ", ".join(files.index_txt), max(newest))
            if files.serials and issuer_index not in with_crl and not files.index_txt:
                raise ConfigError(
                    f"{files.serials[0]}: there is no source of revocations for {subject!r}: give its CRL "
                    "with -crl (it may be empty) or its -index-txt"
                )
            for path in files.serials:
                self._read_serials(buckets, issuer_index, Path(path))
            if issuer_index in with_crl and not files.serials and not files.index_txt:
                self.report.remarks.append(
                    f"{subject}: no list of issued serials (-serials), so only revoked certificates get a "
                    "response; for all others the responder returns unauthorized"
                )
        self._seen.save()

    # -- CRLs ------------------------------------------------------------------------------------

    def _read_crls(self, buckets: SerialBuckets) -> set[int]:
        """Read the CRLs in force; return the indexes of the issuers that have one."""
        files = self._headings()
        chosen, left = in_force([heading for _, heading in files.values()])
        for heading, cause in left:
            self._file(heading.where, _kind(heading)).skipped[cause] += heading.entries
            if self._on_skip is not None:
                self._on_skip(heading.where, cause)
        complete: dict[str, list[CRLInfo]] = {}
        together: dict[tuple[int, bytes], list[CRLInfo]] = {}
        for heading in chosen:
            together.setdefault((heading.issuer, heading.scope), []).append(heading)
            self._check(heading)
            if not heading.is_delta:
                complete.setdefault(files[heading.signature][0], []).append(heading)
        for (issuer_index, scope), headings in together.items():
            self._seen.crls(self._issuers[issuer_index], scope, headings)
        for path, headings in complete.items():
            self._read_from(buckets, path, headings)
        for heading in chosen:
            if heading.is_delta:
                self._read_from(buckets, files[heading.signature][0], [heading])
        return {heading.issuer for heading in chosen}

    def _headings(self) -> dict[bytes, tuple[str, CRLInfo]]:
        """Return path and heading of every CRL by its signature, verified; a copy counts once."""
        files: dict[bytes, tuple[str, CRLInfo]] = {}
        for path in dict.fromkeys(self._sources.crls):
            for crl in self._load(path):
                if crl.signature not in files:
                    files[crl.signature] = path, crl.heading(self._issuers)
        return files

    def _check(self, heading: CRLInfo) -> None:
        heading.check_time(self._now, allow_expired=self._sources.allow_expired)
        if heading.next_update is not None and not self._sources.allow_expired:
            before = self._until.get(heading.issuer, _NEVER)
            self._until[heading.issuer] = min(heading.next_update, before)
        if heading.partial and self._sources.issuers[heading.issuer].serials:
            self.report.remarks.append(
                f"{heading.where}: covers only part of the CA's certificates (issuingDistributionPoint): "
                "give the CRLs of all parts, or certificates revoked in the others are signed as good"
            )

    def _load(self, path: str) -> Iterator[RevocationList]:
        try:
            with Path(path).open("rb") as file:
                if not stat.S_ISREG(Path(path).stat().st_mode):
                    raise ConfigError(
                        f"{path}: not a regular file, which is required for a CRL because it is read twice"
                    )
                data = file.read(MAX_CRL_BYTES + 1)
        except OSError as err:
            raise ConfigError(f"{path}: cannot read: {err.strerror}") from err
        if len(data) > MAX_CRL_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CRL_BYTES >> 20} MiB; is this the right file?")
        self._on_bytes(len(data))
        yield from load_crls(data, path)

    def _read_from(self, buckets: SerialBuckets, path: str, headings: Sequence[CRLInfo]) -> None:
        """Import the entries of some of the CRLs of a file."""
        wanted = {heading.where: heading for heading in headings}
        for crl in self._load(path):
            heading = wanted.get(crl.where)
            if heading is not None and heading.signature == crl.signature:
                del wanted[crl.where]
                self._take(buckets, crl, heading)
        if wanted:
            raise ConfigError(f"{path}: was replaced while being read: run the command again")

    def _take(self, buckets: SerialBuckets, crl: RevocationList, heading: CRLInfo) -> None:
        file = self._file(heading.where, _kind(heading))
        put, issuer_index = buckets.put, heading.issuer
        for count, entry in enumerate(crl.entries()):
            if count % _ENTRIES_A_LOOK == 0:
                self._on_bytes(0)
            try:
                check_size(entry.serial)
            except LineError as err:
                self._skip(file, f"serial {entry.serial:#x}", str(err))
                continue
            if entry.listed is Listed.REVOKED:
                put(issuer_index, entry.serial, Claim.LISTED, entry.reason, entry.revoked_s)
            elif heading.is_delta:
                put(issuer_index, entry.serial, Claim.REMOVED)
            else:
                put(issuer_index, entry.serial, Claim.UNUSABLE)
                self._skip(file, f"serial {entry.serial:#x}", "removeFromCRL in a complete CRL")
                continue
            file.taken += 1
            if entry.invalidity:
                file.notes["invalidity date ignored"] += 1
            if entry.unreadable:
                file.notes["unreadable extensions, imported without a reason"] += 1

    # -- text files ------------------------------------------------------------------------------

    def _read_index(self, buckets: SerialBuckets, issuer_index: int, path: Path) -> int:
        """Read an index.txt; return its latest date of revocation, 0 without any."""
        newest_s = 0
        file = self._file(str(path), "index.txt")
        put = buckets.put
        for at, line in lines(path, self._on_bytes):
            try:
                row = parse_row(line)
            except LineError as err:
                self._skip(file, f"line {at}", str(err))
                if err.serial is not None:
                    put(issuer_index, err.serial, Claim.UNUSABLE)
                continue
            newest_s = max(newest_s, row.revoked_s or 0)
            if row.expiry_s is not None and row.expiry_s <= self._now_s:
                put(issuer_index, row.serial, Claim.EXPIRED)
                self._skip(file, f"line {at}", EXPIRED)
                continue
            if row.revoked:
                put(issuer_index, row.serial, Claim.REVOKED, row.reason, row.revoked_s)
                file.notes.update(row.flaws)
            else:
                put(issuer_index, row.serial, Claim.VALID)
            file.taken += 1
        _refuse_garbage(file, "an index.txt of openssl ca")
        return newest_s

    def _read_serials(self, buckets: SerialBuckets, issuer_index: int, path: Path) -> None:
        file = self._file(str(path), "serials")
        put = buckets.put
        for at, line in lines(path, self._on_bytes):
            try:
                serial = parse_serial_line(line)
            except LineError as err:
                self._skip(file, f"line {at}", str(err))
                continue
            if serial is not None:
                put(issuer_index, serial, Claim.ISSUED)
                file.taken += 1
        _refuse_garbage(file, "a list of serials")

    # -- joining ---------------------------------------------------------------------------------

    def rows(self, buckets: SerialBuckets, bucket: int, keys: Sequence[str]) -> list[StatusRow]:
        """Join the statements of one bucket; `keys` has each issuer's key identifier."""
        claims, listed = self._joined(buckets, bucket)
        found = []
        for key in claims | listed:
            claim, reason, moment = claims.get(key, (Claim.UNUSABLE, 0, 0))
            if claim == Claim.EXPIRED or (claim == Claim.UNUSABLE and key not in listed):
                continue
            if key in listed:
                self.report.conflicts += claim == Claim.VALID
                claim, (reason, moment) = Claim.REVOKED, listed[key]
            revoked = claim == Claim.REVOKED
            self.report.revoked += revoked
            self.report.good += not revoked
            issuer, serial = split_key(key)
            revoked_s = moment_of(moment)
            found.append(
                StatusRow(
                    serial=serial,
                    aki=keys[issuer],
                    status=CertStatus.REVOKED if revoked else CertStatus.GOOD,
                    reason=reason,
                    revoked_at=None if revoked_s is None else datetime.fromtimestamp(revoked_s, UTC),
                    expiry=_NEVER,
                    until=self._until.get(issuer),
                )
            )
        return found

    def _joined(
        self, buckets: SerialBuckets, bucket: int
    ) -> tuple[dict[bytes, tuple[int, int, int]], dict[bytes, tuple[int, int]]]:
        """Return the strongest statement of the text files and that of the CRLs, by key."""
        claims: dict[bytes, tuple[int, int, int]] = {}
        listed: dict[bytes, tuple[int, int]] = {}
        for key, claim, reason, moment in buckets.bucket(bucket):
            if claim == Claim.LISTED:
                listed[key] = reason, moment
            elif claim == Claim.REMOVED:
                listed.pop(key, None)
            else:
                before = claims.get(key)
                if before is not None and (
                    before[0] == claim or before[0] + claim == Claim.VALID + Claim.REVOKED
                ):
                    self.report.duplicates += 1
                if before is None or claim > before[0]:
                    claims[key] = claim, reason, moment
        return claims, listed


def _kind(heading: CRLInfo) -> str:
    suffix = "" if heading.number is None else f" {heading.number}"
    return f"delta CRL{suffix}" if heading.is_delta else f"CRL{suffix}"


def _refuse_garbage(file: FileReport, what: str) -> None:
    """Raise ConfigError for a file without a single usable line: it is of another kind."""
    wrong = [cause for cause in file.skipped if cause != EXPIRED]
    if wrong and not file.taken and not file.skipped[EXPIRED]:
        raise ConfigError(f"{file.file}: {file.first_bad}: {wrong[0]}; no line is usable: is this {what}?")
