"""Every way of changing a log leads to a problem that names entry and line."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocspd.authority.audit import chain, reading
from ocspd.authority.audit.chain import Position
from ocspd.authority.audit.verify import verify
from ocspd.authority.audit.writer import open_key
from ocspd.pki.seals import SealKey
from tests.authority.audit.logs import START, checked, entry, opened, texts, written

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_a_whole_log_has_no_problem(log: Path) -> None:
    written(log, 25)
    report = checked(log)
    assert texts(report) == []
    assert (report.entries, report.first, report.last, report.checkpoints, report.unsigned) == (
        28,
        1,
        28,
        3,
        0,
    )


def test_a_changed_entry_is_named(log: Path) -> None:
    lines = written(log, 25)
    lines[4] = lines[4].replace(b'"serial":"4"', b'"serial":"5"')
    log.write_bytes(b"".join(lines))
    assert texts(checked(log)) == ["5: entry 5 was changed: entry 6 carries another SHA-256 of it"]


def test_a_changed_last_entry_is_named(log: Path) -> None:
    """The last one is a checkpoint after a stop; nothing follows that carries its digest."""
    lines = written(log, 4)
    assert b"checkpoint" in lines[-1]
    log.write_bytes(b"".join(lines).replace(b'"every":10', b'"every":99'))
    assert texts(checked(log, kept=False))[0] == (
        "5: entry 5: this checkpoint does not count: its signature is not valid"
    )


def test_removed_entries_are_named(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(b"".join(lines[:4] + lines[6:]))
    assert texts(checked(log)) == ["5: entries 5 to 6 are missing before this line"]


def test_removed_first_entries_are_named_unless_they_are_kept_elsewhere(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(b"".join(lines[6:]))
    (found,) = texts(checked(log))
    assert found == (
        "1: entries 1 to 6 are missing before this line: name the older files too, or say where the log "
        "begins (-from)"
    )
    assert texts(checked(log, begin=7)) == []


def test_re_ordered_entries_are_named(log: Path) -> None:
    lines = written(log, 25)
    lines[3], lines[5] = lines[5], lines[3]
    log.write_bytes(b"".join(lines))
    assert texts(checked(log)) == [
        "5: entry 5 comes after entry 6: out of order",
        "6: entry 4 comes after entry 6: out of order",
    ]


def test_an_entry_put_in_or_copied_is_named(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(b"".join([*lines[:7], lines[3], *lines[7:]]))
    assert texts(checked(log)) == ["8: entry 4 is here twice, or was put in: entry 7 is before"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello\n", "not JSON from line 1, column 1 on"),
        (b"{}\n", "n is missing"),
        (b'{"n":0,"prev":"' + b"0" * 64 + b'"}\n', "n is 0"),
        (b'{"n":3,"prev":"xyz"}\n', "prev is not a SHA-256 in hexadecimal"),
        (b'{"n":3,"n":4,"prev":"' + b"0" * 64 + b'"}\n', "duplicate key in an object"),
        (b"\xff\n", "not UTF-8 text"),
        (b"\n", "not JSON from line 1, column 1 on"),
        (b"[" * 60_000 + b"\n", "nested too deeply"),
    ],
)
def test_a_line_that_is_no_entry_is_named(log: Path, line: bytes, why: str) -> None:
    lines = written(log, 5)
    log.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    assert texts(checked(log)) == [f"3: this line of {len(line) - 1} bytes is not an entry: {why}"]


@pytest.mark.parametrize("length", [chain.MAX_LINE_BYTES, chain.MAX_LINE_BYTES + 1, 3 * chain.MAX_LINE_BYTES])
def test_a_line_of_any_length_does_no_harm(log: Path, length: int) -> None:
    lines = written(log, 5)
    log.write_bytes(b"".join([*lines[:2], b"x" * length + b"\n", *lines[2:]]))
    assert all("is not an entry" in text for text in texts(checked(log)))
    assert checked(log).problems


def test_a_tail_that_was_cut_off_is_noticed_by_the_checkpoint_beside_the_log(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(b"".join(lines[:22]))
    assert texts(checked(log)) == [
        "0: entries are missing at the end: the last one is 22, but there was a checkpoint with the number 28"
    ]
    assert texts(checked(log, kept=False)) == []


def test_a_tail_cut_off_together_with_the_kept_checkpoint_needs_one_from_elsewhere(log: Path) -> None:
    lines = written(log, 25)
    elsewhere = chain.parse(lines[-1].strip())
    log.write_bytes(b"".join(lines[:20]))
    reading.beside(log, reading.CHECKPOINT).write_bytes(lines[19])
    assert texts(checked(log)) == []
    check = open_key(reading.beside(log, reading.KEY)).check
    report = verify(reading.find([str(log)]), check=check, known=[elsewhere])
    assert texts(report) == [
        "0: entries are missing at the end: the last one is 20, but there was a checkpoint with the number 28"
    ]


def rechained(lines: list[bytes], key: SealKey | None, *, checkpoints: bool = True) -> bytes:
    """Make every digest fit again, as somebody can who knows the format; sign with `key` if there is one."""
    at, result = Position(), []
    for line in lines:
        fields: dict[str, Any] = json.loads(line)
        for name in ("n", "prev"):
            fields.pop(name)
        if fields["event"] == "checkpoint" and not checkpoints:
            fields = {"time": fields["time"], "event": "issue"}
        encoded = chain.encode(fields)
        if fields["event"] == "checkpoint" and key is not None:
            encoded = chain.checkpoint(at, key, START, fields["every"])
        made, at = chain.link(at, encoded)
        result.append(made)
    return b"".join(result)


def test_a_chain_made_anew_fails_at_the_next_checkpoint(log: Path) -> None:
    lines = written(log, 25)
    lines[4] = lines[4].replace(b'"serial":"4"', b'"serial":"5"')
    log.write_bytes(rechained(lines, None))
    assert texts(checked(log, kept=False))[:2] == [
        "10: entry 10: this checkpoint does not count: its signature is not valid",
        "20: entry 20: this checkpoint does not count: its signature is not valid",
    ]


def test_a_chain_made_anew_and_signed_with_another_key_is_refused(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(rechained(lines, SealKey.generate()))
    found = texts(checked(log, kept=False))
    assert "signed with the key" in found[0]
    assert found[-1].endswith("no checkpoint is signed with this key")


def test_a_chain_made_anew_without_checkpoints_is_noticed(log: Path) -> None:
    lines = written(log, 25)
    log.write_bytes(rechained(lines, None, checkpoints=False))
    assert texts(checked(log, kept=False)) == ["0: no checkpoint is signed with this key"]
    key = open_key(reading.beside(log, reading.KEY))
    unsigned = [line for line in lines[10:] if b"checkpoint" not in line] * 2
    log.write_bytes(rechained(lines[:10] + unsigned, key))
    assert "20: entry 20 has to be a checkpoint: the entries before it were rewritten" in texts(
        checked(log, kept=False)
    )


def test_a_log_made_anew_with_the_stolen_key_differs_from_a_checkpoint_kept_elsewhere(log: Path) -> None:
    lines = written(log, 25)
    key = open_key(reading.beside(log, reading.KEY))
    lines[4] = lines[4].replace(b'"serial":"4"', b'"serial":"5"')
    log.write_bytes(rechained(lines, key))
    assert texts(checked(log, kept=False)) == []
    assert texts(checked(log)) == [
        "28: entry 28: another checkpoint with this number is known: the log was rewritten"
    ]


def test_a_signature_that_is_not_base64_is_not_valid(log: Path) -> None:
    lines = written(log, 3)
    fields = json.loads(lines[-1])
    for signature in ("%%%", "", 7, base64.b64encode(b"short").decode(), None):
        fields["signature"] = signature
        log.write_bytes(b"".join(lines[:-1]) + json.dumps(fields).encode() + b"\n")
        assert "its signature is not valid" in texts(checked(log, kept=False))[0]


def test_files_are_read_in_the_order_of_their_entries_whatever_their_names(log: Path) -> None:
    file = opened(log)
    for part, name in enumerate(("audit.log.z", "audit.log-20261126", "audit.log.1", "audit.log")):
        file.append([entry(part * 10 + number) for number in range(7)], seal=True)
        if name != log.name:
            log.rename(log.with_name(name))
    file.close()
    log.with_name("audit.log.txt").write_text("notes\n")
    log.with_name("audit.logging").write_text("another\n")
    report = checked(log)
    assert texts(report) == []
    assert (report.files, report.first) == (4, 1)
    log.with_name("audit.log-20261126").unlink()
    assert [text for text in texts(checked(log)) if "missing" in text]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_single_change_of_a_sealed_log_goes_unnoticed(tmp_path: Path, data: st.DataObject) -> None:
    log = tmp_path / "audit.log"
    if not log.exists():
        written(log, 30)
        (tmp_path / "copy").write_bytes(log.read_bytes())
    original = (tmp_path / "copy").read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    kind = data.draw(st.sampled_from(["flip", "remove", "insert"]))
    if kind == "flip":
        changed = bytearray(original)
        changed[position] ^= data.draw(st.integers(1, 255))
    elif kind == "remove":
        length = data.draw(st.integers(1, 400))
        changed = bytearray(original[:position] + original[position + length :])
    else:
        changed = bytearray(original[:position] + data.draw(st.binary(min_size=1)) + original[position:])
    log.write_bytes(changed)
    assert checked(log).problems
