"""Responses from a file of base64 lines (`ocspdump` of CFSSL and of ocspd, Boulder), followed as it changes.

The file is read whole, its responses become one segment of a private index directory, and a changed file
is read again once it has not changed for `_SETTLE_S`. A file that vanishes, holds no response or is cut
off in its last one never replaces what is being served.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.errors import IndexFileError, OCSPDError
from ocspd.files import UTF8_MARK, UTF16_MARKS, stamp
from ocspd.index.exhaustion import is_exhaustion
from ocspd.logs import logger
from ocspd.recovery import Recovery

if TYPE_CHECKING:
    from ocspd.clock import Clock
    from ocspd.files import Stamp
    from ocspd.index.directory import IndexDirectory

_POLL_S = 0.2
_SETTLE_S = 0.4
"""A file whose size and time have not changed for this long is taken to be complete."""
_SHOWN = 20
"""How many bad tokens are logged one by one; the rest are counted."""
_WHITESPACE = b" \t\r\n\f"


class ResponsesFile:
    """Publishes the responses of a file into an index directory of its own."""

    def __init__(self, path: str, directory: IndexDirectory, clock: Clock) -> None:
        self.directory = directory
        self._path = Path(path)
        self._clock = clock
        self._published: Stamp | None = None
        self._file = Recovery(
            meanwhile="still serving the responses read before",
            again=f"{path} is usable again",
            retry_s=(_POLL_S, _POLL_S),
        )
        self._broken = ""
        self._forced = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the current contents of the file are being served."""
        return not self._file.trouble

    async def prepare(self) -> None:
        """Read the file for the first time.

        OCSPDError when it cannot be read. A file without any response is served, as by CFSSL.
        """
        found = self._stamp()
        await asyncio.to_thread(self._build, first=True)
        self._published = found

    async def follow(self) -> None:
        """Read the file again whenever it has changed, until cancelled."""
        while True:
            try:
                await self._poll()
            except OCSPDError as err:
                self._file.failed(err)
            else:
                self._file.works()
            await self._file.pause(self._forced, idle_s=_POLL_S)

    def reload(self) -> None:
        """Read the file again at once, changed or not."""
        self._forced.set()

    async def _poll(self) -> None:
        forced = self._forced.is_set()
        self._forced.clear()
        found = self._stamp()
        if found == self._published and not forced and await asyncio.to_thread(self._is_there):
            if self._broken:
                raise OCSPDError(self._broken)  # still the file that could not be used
            return
        while True:
            await asyncio.sleep(_SETTLE_S)
            later = self._stamp()
            if later == found:
                break
            found = later
        self._published = found  # also when it is of no use: looked at again when it changes
        try:
            await asyncio.to_thread(self._build, first=False)
        except OCSPDError as err:
            if isinstance(err, IndexFileError) or isinstance(err.__cause__, OSError):
                self._published = None  # the file may be good: try again, changed or not
            else:
                self._broken = str(err)
            raise
        self._broken = ""

    def _is_there(self) -> bool:
        """Return whether the published index is still complete: a cleaner of temporary files may have run."""
        try:
            manifest = self.directory.manifest()
            return manifest is not None and all(
                self.directory.segment_path(ref).stat().st_size == ref.size_bytes for ref in manifest.segments
            )
        except (IndexFileError, OSError) as err:
            return is_exhaustion(err)

    def _stamp(self) -> Stamp:
        try:
            return stamp(self._path)
        except OSError as err:
            raise self._unreadable(err) from err

    def _unreadable(self, error: OSError) -> OCSPDError:
        return OCSPDError(f"unable to read response file {self._path}: {(error.strerror or '').lower()}")

    def _build(self, *, first: bool) -> None:
        try:
            data = self._path.read_bytes()
        except OSError as err:
            raise self._unreadable(err) from err
        if data[:2] in UTF16_MARKS:
            raise OCSPDError(f"{self._path} is in UTF-16: save it as ASCII or UTF-8")
        data = data.removeprefix(UTF8_MARK)
        now = int(self._clock.now().timestamp())
        self.directory.create()
        with self.directory.writer(now) as writer:
            added, bad = writer.add_base64(data)
            writer.order_by_time()  # a dump that was put together has old responses behind new ones
            if not first and not added:
                raise OCSPDError(f"{self._path} contains no OCSP response")
            tokens = added + writer.skipped
            if not first and bad and bad[-1][0] == tokens and data[-1:] not in _WHITESPACE:
                raise OCSPDError(f"{self._path} is truncated: its last OCSP response is incomplete")
            for position, why in bad[:_SHOWN]:
                logger.error("%s: OCSP response %d skipped: %s", self._path, position, why)
            if writer.skipped > _SHOWN:
                logger.error("%s: %d OCSP responses skipped in all", self._path, writer.skipped)
            writer.finish()
        self.directory.publish([self.directory.adopt(writer.path)], now)
        self.directory.collect(self._clock.now().timestamp(), grace_s=60)
        logger.info("Read %d OCSP responses", added)


class PublishedIndex:
    """An index directory that another process publishes to: there is nothing to do but watch it."""

    up = True
    """Nothing of its own can fail: the supervisor reads the manifest."""

    def __init__(self, directory: IndexDirectory) -> None:
        self.directory = directory

    async def prepare(self) -> None:
        """Do nothing: the supervisor reads the manifest."""

    async def follow(self) -> None:
        """Do nothing until cancelled."""
        await asyncio.Event().wait()

    def reload(self) -> None:
        """Do nothing: the supervisor reads the manifest again."""
