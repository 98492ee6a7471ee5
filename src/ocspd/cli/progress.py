"""The progress of a long pass: an updated line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from ocspd.logs import logger

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    import rich.progress

    from ocspd.clock import Clock
    from ocspd.signer.tally import Progress

_FIRST_S = 1.0
_EVERY_S = 10.0


class PassProgress:
    """Shows the progress of passes on stderr; use as `with`. A pass under a second shows nothing."""

    def __init__(self, what: str, clock: Clock, total: int | None = None) -> None:
        """`total` is the number of certificates, if known; then the time left is shown."""
        self._what = what
        self._total = total
        self._clock = clock
        self._start: datetime | None = clock.now()
        self._shown_s = 0.0
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """End the display of this pass; the next figures start another one."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._start = None
        self._shown_s = 0.0

    def update(self, progress: Progress) -> None:
        """Update the figures."""
        if self._start is None:
            self._start = self._clock.now()
        elapsed_s = (self._clock.now() - self._start).total_seconds()
        if elapsed_s < _FIRST_S:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            self._show(progress, progress.certificates / elapsed_s)
        elif elapsed_s - self._shown_s >= _EVERY_S:
            self._shown_s = elapsed_s
            rate = progress.certificates / elapsed_s
            left = ""
            if self._total is not None and rate > 0:
                left = f", about {max(self._total - progress.certificates, 0) / rate:.0f} s left"
            logger.info(
                "%s: %d certificates done, %d signed, %.0f/s%s",
                self._what,
                progress.certificates,
                progress.signed,
                rate,
                left,
            )

    def _show(self, progress: Progress, rate: float) -> None:
        if self._bar is None or self._task is None:
            import rich.console  # noqa: PLC0415  (80 ms that a short pass does not need)
            import rich.progress  # noqa: PLC0415

            self._bar = rich.progress.Progress(
                rich.progress.SpinnerColumn(),
                rich.progress.TextColumn("{task.description}"),
                rich.progress.TextColumn("{task.completed:,.0f} certificates"),
                rich.progress.TextColumn("{task.fields[rate]:,.0f}/s"),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=self._total, rate=0.0)
            self._bar.start()
        self._bar.update(self._task, completed=progress.certificates, rate=rate)


class ByteProgress:
    """A bar for work of known or later known size; shows nothing without a terminal."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            import rich.console  # noqa: PLC0415  (80 ms that a script does not need)
            import rich.progress  # noqa: PLC0415

            self._bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar; nothing is shown from now on."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, amount: int) -> None:
        """Advance by an amount."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, amount)

    def set(self, done: int, total: int) -> None:
        """Set the amount done and the total."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
