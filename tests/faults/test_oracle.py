"""The oracle sees what it is for, and nothing where all is well."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.clock import ManualClock
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from tests.faults.oracle import Oracle, combined
from tests.pki.chain import NOW, make_chain

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = make_chain()
START = NOW.timestamp()


class Story:
    """Commits and generations on a clock of their own."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(NOW)
        seconds = lambda: self.clock.now().timestamp()  # noqa: E731
        self.oracle = Oracle([CHAIN.ca], clock=seconds, wall_clock=seconds)
        self.directory = IndexDirectory(path)
        self.directory.create()
        self.signer = CHAIN.signer(clock=self.clock, this_update_step=timedelta(seconds=1))

    def says(self, *words: str) -> None:
        self.oracle.committed(0, 7, words)

    def publishes(self, status: CertStatus | None, *, signed_s: float = 0) -> None:
        """Publish a generation with one answer, signed so many seconds from now."""
        now = self.clock.now()
        with self.directory.writer(int(now.timestamp())) as writer:
            if status is not None:
                batch = self.signer.batch(now + timedelta(seconds=signed_s))
                writer.add(batch.sign(7, status, 1, now))
            writer.finish()
            manifest = self.directory.publish([self.directory.adopt(writer.path)], int(now.timestamp()))
        self.oracle.observe(self.directory, manifest)

    def after(self, seconds: float) -> Story:
        self.clock.advance(timedelta(seconds=seconds))
        return self


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "index")


def test_a_revocation_answered_in_time_is_well(story: Story) -> None:
    story.says("good")
    story.publishes(CertStatus.GOOD)
    story.after(60).says("revoked")
    story.after(0.9).publishes(CertStatus.REVOKED)
    story.after(60)
    assert story.oracle.violations() == story.oracle.unanswered() == []


def test_a_good_published_after_the_bound_is_seen(story: Story) -> None:
    story.says("good")
    story.after(1).says("good", "revoked")
    story.after(1.1).publishes(CertStatus.GOOD)
    (problem,) = story.oracle.violations()
    assert "says good" in problem
    assert "said revoked" in problem


def test_a_good_that_stays_longer_than_the_bound_is_seen(story: Story) -> None:
    story.says("good")
    story.publishes(CertStatus.GOOD)
    story.after(1).says("unknown")
    story.after(0.5)
    assert not story.oracle.violations()
    story.after(1)
    assert len(story.oracle.violations()) == 1


def test_a_certificate_that_is_good_again_may_be_called_good(story: Story) -> None:
    story.says("revoked")
    story.publishes(CertStatus.REVOKED)
    story.after(60).says("good")
    story.publishes(CertStatus.GOOD)
    assert story.oracle.violations() == story.oracle.unanswered() == []


def test_an_older_answer_and_a_lost_one_are_seen(story: Story) -> None:
    story.says("revoked")
    story.publishes(CertStatus.REVOKED)
    story.publishes(CertStatus.REVOKED, signed_s=-60)
    story.publishes(None)
    older, lost = story.oracle.violations()
    assert "which is older than" in older
    assert "has no answer" in lost
    assert len(story.oracle.unanswered()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing"),
        (("good", "revoked"), "revoked"),
        (("revoked", "gibberish"), "revoked"),
        (("good", "GOOD"), "unknown"),
        (("good", "good"), "good"),
        (("good", "unknown"), "unknown"),
    ],
)
def test_rows_of_one_certificate_are_read_together(words: tuple[str, ...], says: str) -> None:
    assert combined(words) == says
