from __future__ import annotations

import base64
import datetime as dt
import os
import resource
import signal
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocspd._index import Index, Segment
from ocspd.errors import DERError, IndexFileError
from ocspd.index._writer import SegmentWriter
from ocspd.machine import Machine
from tests.native.answers import HASHES, NOW, Authority
from tests.native.world import GOOD, NOW_S, authorities, segment_path, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("p256", "p384", "p521", "rsa", "ed25519")
AUTHORITIES = [Authority(kind, f"authority {kind}", embed) for kind in KINDS for embed in (True, False)]
HOUR = dt.timedelta(hours=1)


@st.composite
def answers(draw: st.DrawFn) -> tuple[tuple[str, bytes, bytes, int], bytes, int | None]:
    """An answer with its key and when it is due."""
    authority = draw(st.sampled_from(AUTHORITIES))
    hash_name = draw(st.sampled_from(["sha1", "sha1", *HASHES]))
    serial = draw(
        st.integers(0, 40) | st.integers(0, (1 << 159) - 1) | st.sampled_from([127, 128, 255, 256, 1 << 158])
    )
    revoked = draw(st.booleans())
    der = authority.answer(
        serial,
        hash_name=hash_name,
        revoked_at=NOW - draw(st.integers(1, 3)) * HOUR if revoked else None,
        reason=draw(st.sampled_from([None, x509.ReasonFlags.key_compromise, x509.ReasonFlags.superseded]))
        if revoked
        else None,
        this_update=NOW - draw(st.integers(0, 2)) * HOUR,
        next_update=draw(st.sampled_from([NOW + HOUR, NOW + 96 * HOUR, None])),
    )
    return (
        (hash_name, *authority.hashes(hash_name), serial),
        der,
        draw(st.none() | st.integers(NOW_S, NOW_S + 9)),
    )


def write(path: Path, *ders: bytes) -> Segment:
    with SegmentWriter(str(path), created_at=NOW_S) as writer:
        for der in ders:
            writer.add(der)
        writer.finish()
    return Segment(str(path))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(answers(), max_size=30), older=st.lists(answers(), max_size=10))
def test_what_is_read_back_is_what_was_added(tmp_path: Path, batch: list, older: list) -> None:  # type: ignore[type-arg]
    expected = {}
    for name, part in (("older", older), ("newer", batch)):
        with SegmentWriter(str(tmp_path / name), created_at=NOW_S) as writer:
            for key, der, refresh_at in part:
                writer.add(der, refresh_at)
                expected[key] = der
            writer.finish()
    newer, base = Segment(str(tmp_path / "newer")), Segment(str(tmp_path / "older"))
    for segment, part in ((newer, batch), (base, older)):
        segment.verify()
        last = {key: (der, refresh_at) for key, der, refresh_at in part}
        assert segment.entries == len(last)
        for key, (der, refresh_at) in last.items():
            found = segment.lookup(*key)
            assert found is not None
            assert found.der == der
            parsed = ocsp.load_der_ocsp_response(der)
            assert found.etag == parsed.signature[-16:].hex().upper()
            assert found.status == (parsed.certificate_status is ocsp.OCSPCertStatus.REVOKED)
            assert found.this_update == parsed.this_update_utc.timestamp()
            if parsed.next_update_utc is not None:
                assert found.next_update == parsed.next_update_utc.timestamp()
                assert found.refresh_at == min(refresh_at or found.next_update, found.next_update)
    with SegmentWriter(str(tmp_path / "merged"), created_at=NOW_S) as writer:
        assert writer.add_segment(newer) == (newer.entries, 0, 0)
        copied, superseded, expired = writer.add_segment(base, Index([newer]))
        writer.finish()
    merged = Segment(str(tmp_path / "merged"))
    merged.verify()
    assert (copied + superseded, expired) == (base.entries, 0)
    assert merged.entries == len(expected) == newer.entries + copied
    keys = merged.issuer_keys
    assert {(*keys[number], serial): answer.der for number, serial, answer in merged.records()} == expected


def test_many_keys_fill_many_pages_and_replacements_leave_no_trace(tmp_path: Path) -> None:
    der = authorities()[0].answer(0x11223344)
    at = der.index(b"\x02\x04\x11\x22\x33\x44") + 2
    with SegmentWriter(str(tmp_path / "many.seg"), created_at=NOW_S) as writer:
        for _ in range(2):
            for serial in range(1 << 24, (1 << 24) + 40_000):
                writer.add(der[:at] + serial.to_bytes(4, "big") + der[at + 4 :])
        assert writer.added == 80_000
        writer.finish()
    segment = Segment(str(tmp_path / "many.seg"))
    segment.verify()
    assert segment.entries == 40_000 == sum(row["entries"] for row in segment.issuer_stats())
    assert sum(1 for _ in segment.records()) == 40_000
    assert segment.templates == 1
    hashes = authorities()[0].hashes("sha1")
    assert all(segment.lookup("sha1", *hashes, serial) for serial in range(1 << 24, (1 << 24) + 40_000, 97))
    assert segment.lookup("sha1", *hashes, (1 << 24) + 40_000) is None


def unnamed_blocks(directory: Path) -> int:
    """Blocks of disk that this process's files without a name take in a directory."""
    taken = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(path.readlink()).startswith(f"{directory}/#") or "(deleted)" in str(path.readlink()):
                taken += path.stat().st_blocks
    return taken


@pytest.mark.parametrize("repeated", [1, 600])
def test_keys_that_memory_has_no_room_for_give_their_disk_space_back(tmp_path: Path, repeated: int) -> None:
    """Unless a page of slots might overflow: then they are needed again."""
    der = authorities()[0].answer(0x11223344)
    at = der.index(b"\x02\x04\x11\x22\x33\x44") + 2
    before, after = der[:at], der[at + 4 :]
    first, count = 1 << 24, 600_000
    blocks = []

    class Looking(Machine):
        def fsync(self, descriptor: int) -> None:
            blocks.append(unnamed_blocks(tmp_path))
            super().fsync(descriptor)

    with SegmentWriter(str(tmp_path / "many.seg"), created_at=NOW_S, machine=Looking()) as writer:
        for serial in range(first, first + count):
            writer.add(before + serial.to_bytes(4, "big") + after)
        for _ in range(repeated - 1):
            writer.add(before + first.to_bytes(4, "big") + after)
        spilled = unnamed_blocks(tmp_path)
        writer.finish()
    assert spilled * 512 > 1_000_000
    assert blocks[0] == (0 if repeated == 1 else spilled)
    segment = Segment(str(tmp_path / "many.seg"))
    segment.verify()
    hashes = authorities()[0].hashes("sha1")
    assert segment.entries == count
    assert all(segment.lookup("sha1", *hashes, serial) for serial in range(first, first + count))
    assert segment.lookup("sha1", *hashes, first + count) is None


def test_a_p256_answer_costs_little_more_than_its_serial_and_signature(tmp_path: Path) -> None:
    authority = authorities()[0]
    ders = [authority.answer((1 << 158) + number) for number in range(2_000)]
    segment = write(tmp_path / "small.seg", *ders)
    assert segment.size_bytes / segment.entries < 115  # 2 000 entries share the fixed parts


def two_in_one(second: int = 8) -> bytes:
    """An answer about two certificates, unsigned but well-formed: made from one about serial 7."""

    def tlv(tag: int, content: bytes) -> bytes:
        size = len(content)
        octets = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
        length = octets if size < 128 else bytes((0x80 | len(octets),)) + octets
        return bytes((tag,)) + length + content

    der = authorities()[0].answer(7)
    parsed = ocsp.load_der_ocsp_response(der)
    tbs = parsed.tbs_response_bytes
    start = tbs.index(b"\x30", tbs.index(b"\x18\x0f") + 17)
    single = tbs[start + 2 :]
    other = single.replace(b"\x02\x01\x07", b"\x02\x01" + bytes((second,)))
    head = tbs[2 if tbs[1] < 128 else 3 : start]
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    basic = tlv(
        0x30, tlv(0x30, head + tlv(0x30, single + other)) + algorithm + tlv(3, b"\0" + parsed.signature)
    )
    content = tlv(0x30, bytes.fromhex("06092b0601050507300101") + tlv(4, basic))
    return tlv(0x30, b"\x0a\x01\x00" + tlv(0xA0, content))


def test_an_answer_about_two_certificates_is_found_under_both(tmp_path: Path) -> None:
    der = two_in_one()
    assert len(list(ocsp.load_der_ocsp_response(der).responses)) == 2
    segment = write(tmp_path / "two.seg", der)
    segment.verify()
    assert segment.entries == 2
    for serial in (7, 8):
        found = segment.lookup("sha1", *authorities()[0].hashes("sha1"), serial)
        assert found is not None
        assert found.der == der


def test_an_answer_is_added_under_all_its_certids_or_none(tmp_path: Path) -> None:
    with SegmentWriter(str(tmp_path / "none.seg"), created_at=NOW_S) as writer:
        with pytest.raises(DERError, match="negative"):
            writer.add(two_in_one(0xFF))
        writer.finish()
    assert Segment(str(tmp_path / "none.seg")).entries == 0


def test_a_dump_keeps_its_good_answers_and_names_the_bad_ones(tmp_path: Path) -> None:
    good = [base64.b64encode(answer.der) for answer in stored()]
    dump = b"\n".join(
        [
            good[0],
            b"!!!",
            good[1] + b"\t" + good[2],
            b"MAMKAQY=",
            b"\r\n",
            good[3][:-9],
            b"AAAA",
            b"A" * (1 << 21) + b"A",
        ]
    )
    with SegmentWriter(str(tmp_path / "dump.seg"), created_at=NOW_S) as writer:
        added, bad = writer.add_base64(b"  \n" + dump)
        assert (added, writer.added, writer.skipped) == (3, 3, 5)
        assert [number for number, _ in bad] == [2, 5, 6, 7, 8]
        assert bad[0][1] == "not base64"
        assert "status is not successful" in bad[1][1]
        assert writer.add_base64(b"") == (0, [])
        assert writer.add_base64(b"%")[1][0][0] == 9
        assert len(writer.add_base64(b"? " * 1_200)[1]) == 1_000
        writer.finish()
    assert Segment(str(tmp_path / "dump.seg")).entries == 2  # the first two have one key


@pytest.mark.parametrize("cut", [0, 1, 5, 50, 200, -1])
def test_what_is_no_answer_is_refused_and_nothing_is_added(tmp_path: Path, cut: int) -> None:
    with SegmentWriter(str(tmp_path / "a.seg"), created_at=NOW_S) as writer:
        with pytest.raises(DERError):
            writer.add(stored()[0].der[:cut])
        assert writer.added == 0


@pytest.mark.parametrize(
    "text", [b"20260301120060Z", b"20260230120000Z", b"99991231235960Z", b"20261301120000Z"]
)
def test_impossible_times_are_refused(tmp_path: Path, text: bytes) -> None:
    with (
        SegmentWriter(str(tmp_path / "a.seg"), created_at=NOW_S) as writer,
        pytest.raises(DERError, match="time"),
    ):
        writer.add(stored()[1].der.replace(b"20260301120000Z", text))


def test_merging_drops_what_has_expired(tmp_path: Path) -> None:
    base = Segment(segment_path())
    with SegmentWriter(str(tmp_path / "m.seg"), created_at=NOW_S) as writer:
        copied, superseded, expired = writer.add_segment(base, None, NOW_S + 1)
        writer.finish()
    assert (copied, superseded, expired) == (base.entries - 2, 0, 2)


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    with SegmentWriter(str(path), created_at=NOW_S) as writer:
        writer.add(stored()[0].der)
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    writer.abort()
    with pytest.raises(ValueError, match="finished or aborted"):
        writer.add(stored()[0].der)
    writer = SegmentWriter(str(path), created_at=NOW_S)
    del writer
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=r"absent/x.seg: cannot write segment: No such file"):
        SegmentWriter(str(tmp_path / "absent" / "x.seg"), created_at=NOW_S)


@contextmanager
def disk_of(octets: int) -> Iterator[None]:
    """No file can grow beyond this (EFBIG where a full disk says ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("octets", [0, 4096, 100_000, 1_500_000])
def test_a_full_disk_leaves_no_file_and_a_clear_error(tmp_path: Path, octets: int) -> None:
    der = authorities()[1].answer(GOOD)
    path = tmp_path / "full.seg"
    writer = SegmentWriter(str(path), created_at=NOW_S)

    def fill() -> None:
        for _ in range(6_000):
            writer.add(der)
        writer.finish()

    with disk_of(octets), pytest.raises(IndexFileError, match="cannot write segment: File too large"):
        fill()
    with pytest.raises(ValueError, match="finished or aborted"):
        writer.add(der)
    assert list(tmp_path.iterdir()) == []


def test_the_segment_is_readable_by_other_users(tmp_path: Path) -> None:
    write(tmp_path / "r.seg", stored()[0].der)
    assert os.stat(tmp_path / "r.seg").st_mode & 0o777 == 0o644  # noqa: PTH116


def test_thousands_of_forms_and_dozens_of_issuers_find_room(tmp_path: Path) -> None:
    der = authorities()[0].answer(GOOD)
    key_hash = authorities()[0].hashes("sha1")[1]
    with SegmentWriter(str(tmp_path / "forms.seg"), created_at=NOW_S) as writer:
        for number in range(3_000):
            time = (NOW - dt.timedelta(seconds=number)).strftime("%Y%m%d%H%M%SZ").encode()
            other = bytes((number % 40, *key_hash[1:]))
            writer.add(der.replace(b"20260301120000Z", time).replace(key_hash, other))
        writer.finish()
    segment = Segment(str(tmp_path / "forms.seg"))
    segment.verify()
    assert (segment.templates, len(segment.issuer_keys), segment.entries) == (3_000, 40, 40)
    with SegmentWriter(str(tmp_path / "again.seg"), created_at=NOW_S) as writer:
        assert writer.add_segment(segment) == (40, 0, 0)
        writer.finish()
    again = Segment(str(tmp_path / "again.seg"))
    assert {answer.der for _, _, answer in again.records()} == {
        answer.der for _, _, answer in segment.records()
    }
    assert again.templates == 40


def test_a_gentle_writer_writes_the_same(tmp_path: Path) -> None:
    authority = AUTHORITIES[0]
    ders = [authority.answer(serial) for serial in range(300)]
    plain, many = write(tmp_path / "plain.seg", *ders), tmp_path / "paced.seg"
    with SegmentWriter(str(many), created_at=NOW_S, paced=True) as writer:
        for der in ders:
            writer.add(der)
        writer.add_segment(plain, None, 0)
        writer.finish()
    paced = Segment(str(many))
    paced.verify()
    assert paced.entries == plain.entries == 300
    assert paced.size_bytes > 1 << 14  # several pieces
    hashes = authority.hashes("sha1")
    for serial in range(300):
        one, other = (segment.lookup("sha1", *hashes, serial) for segment in (plain, paced))
        assert one is not None
        assert other is not None
        assert one.der == other.der


def test_a_writer_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    ders = [AUTHORITIES[0].answer(serial) for serial in range(40)]
    with SegmentWriter(str(tmp_path / "stopped.seg"), created_at=NOW_S, paced=True) as writer:
        for der in ders:
            writer.add(der)
        stopping = threading.Thread(target=writer.stop)
        stopping.start()
        stopping.join()
        with pytest.raises(IndexFileError, match=r"stopped\.seg: abandoned before it was finished"):
            writer.finish()
        with pytest.raises(ValueError, match="finished or aborted"):
            writer.add(ders[0])
    assert not list(tmp_path.iterdir())


def test_a_gentle_writer_can_be_told_to_hurry(tmp_path: Path) -> None:
    with SegmentWriter(str(tmp_path / "hurried.seg"), created_at=NOW_S, paced=True) as writer:
        before = writer.paced
        writer.full_speed()
        assert (before, writer.paced) == (True, False)
        writer.add(AUTHORITIES[0].answer(1))
        writer.finish()
    assert Segment(writer.path).entries == 1


@pytest.mark.parametrize("hours", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2], [1, 1, 0], [0, 1, 1]])
def test_of_a_dump_the_newest_answer_counts_in_any_order_and_what_comes_after_it_replaces_it(
    tmp_path: Path, hours: list[int]
) -> None:
    authority = AUTHORITIES[0]
    many = range(1, 400)
    with SegmentWriter(str(tmp_path / "segment"), created_at=NOW_S) as writer:
        for serial in many:
            for hour in hours:
                revoked_at = NOW - 9 * HOUR if hour == 0 else None
                writer.add(authority.answer(serial, this_update=NOW - hour * HOUR, revoked_at=revoked_at))
        writer.order_by_time()
        writer.add(authority.answer(7, this_update=NOW - 5 * HOUR))
        writer.finish()
    index = Index([Segment(str(tmp_path / "segment"))])
    key = "sha1", *authority.hashes("sha1")
    found = {serial: index.lookup(*key, serial) for serial in many}
    assert {answer.status for serial, answer in found.items() if answer and serial != 7} == {1}
    assert found[7] is not None
    assert found[7].status == 0
    assert index.segments[0].entries == len(many)
    (stats,) = index.segments[0].issuer_stats()
    assert (stats["good"], stats["revoked"]) == (1, len(many) - 1)


@pytest.mark.parametrize("serial", [0, 1, 0x7F, 0x80, 0xFF, 0x80 << 152, (1 << 504) - 1])
def test_every_reader_of_records_compares_serials_as_integers(tmp_path: Path, serial: int) -> None:
    """The high bit makes an INTEGER one byte longer: copying, counting and reading agree on whose it is."""
    old = write(tmp_path / "old", AUTHORITIES[0].answer(serial), AUTHORITIES[0].answer(serial + 1))
    new = write(tmp_path / "new", AUTHORITIES[0].answer(serial, revoked_at=NOW))
    assert [one for _, one, _ in old.records()] == [serial, serial + 1]
    (counts,) = Index([new, old]).live_stats().values()
    assert (counts["entries"], counts["good"], counts["revoked"]) == (2, 1, 1)
    with SegmentWriter(str(tmp_path / "merged"), created_at=NOW_S) as writer:
        assert writer.add_segment(new) == (1, 0, 0)
        assert writer.add_segment(old, Index([new])) == (1, 1, 0)
        writer.finish()
    merged = Segment(str(tmp_path / "merged"))
    assert [(one, response.status) for _, one, response in merged.records()] == [(serial, 1), (serial + 1, 0)]
