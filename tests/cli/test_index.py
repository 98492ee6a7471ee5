from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ocspd.cli.main import main
from ocspd.index.directory import IndexDirectory
from ocspd.model import CertStatus
from tests.pki.chain import make_chain, pem

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = make_chain()
REVOKED_AT = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    signer = CHAIN.signer()
    lines = [
        base64.b64encode(signer.sign(serial=n, status=CertStatus.GOOD, reason=0, revoked_at=None))
        for n in range(1, 20)
    ]
    lines.append(
        base64.b64encode(signer.sign(serial=20, status=CertStatus.REVOKED, reason=4, revoked_at=REVOKED_AT))
    )
    (tmp_path / "dump").write_bytes(b"\n".join(lines) + b"\n!!!\n")
    (tmp_path / "ca.pem").write_bytes(pem(CHAIN.ca))
    return tmp_path


def build(files: Path) -> Path:
    assert main(["index", "build", "-o", str(files / "index"), "-responses", str(files / "dump")]) == 0
    return files / "index"


def test_a_dump_becomes_an_index_and_its_bad_line_is_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(files)
    assert "skipping response 21: not base64" in capsys.readouterr().err
    assert main(["index", "stats", str(path)]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["entries"] == 20
    assert stats["statuses"] == {"good": 19, "revoked": 1, "unknown": 0}
    assert stats["issuers"][0]["hash"] == "sha1"
    assert stats["next_update"]["newest"] > stats["this_update"]["newest"]
    times = [stats["published_at"], stats["segments"][0]["created_at"]]
    times += [stats[name][which] for name in ("this_update", "next_update") for which in ("oldest", "newest")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", instant) for instant in times)


@pytest.mark.parametrize("serial", ["20", "0x14", "00:14"])
def test_an_answer_is_found_by_its_serial_in_every_notation(
    files: Path, capsys: pytest.CaptureFixture[str], serial: str
) -> None:
    path = build(files)
    capsys.readouterr()
    assert main(["index", "lookup", str(path), serial, "-ca", str(files / "ca.pem")]) == 0
    found = json.loads(capsys.readouterr().out)["sha1"]
    assert found["status"] == "revoked"
    assert "response" not in found


def test_the_response_itself_is_printed_or_written_only_when_asked_for(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(files)
    capsys.readouterr()
    words = ["index", "lookup", str(path), "20", "-ca", str(files / "ca.pem"), "-der", str(files / "der")]
    assert main([*words, "-base64"]) == 0
    found = json.loads(capsys.readouterr().out)["sha1"]
    assert base64.b64decode(found["response"]) == (files / "der").read_bytes()
    assert found["bytes"] == len((files / "der").read_bytes())


@pytest.mark.parametrize("flag", ["-der", "-report"])
def test_neither_output_goes_through_a_symbolic_link(
    files: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "link").symlink_to("/dev/null")
    words = ["build", "-o", str(files / "index"), "-responses", str(files / "dump")]
    if flag == "-der":
        words = ["lookup", str(build(files)), "20", "-ca", str(files / "ca.pem")]
    assert main(["index", *words, flag, str(files / "link")]) == 1
    assert "link: is a symbolic link to /dev/null" in capsys.readouterr().err
    assert (files / "link").is_symlink()


@pytest.mark.parametrize("action", ["build", "stats", "verify", "lookup", "merge"])
def test_every_action_has_a_help_of_its_own_with_the_flags_that_apply(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    applying = {
        "build": {"o", "responses", "db-config", "ca", "crl", "responder"},
        "verify": {"ca"},
        "lookup": {"ca", "der", "base64"},
    }.get(action, set())
    for words in (["index", action, "-h"], ["help", "index", action]):
        assert main(words) == 0
        text = capsys.readouterr().err
        assert text.startswith(f"\tocspd index {action} -- ")
        shown = {line.partition("=")[0].strip(" -") for line in text.splitlines() if line.startswith("  -")}
        assert applying | {"loglevel"} <= shown
        assert not (shown & {"o", "der", "crl", "ca"}) - applying
    assert main(["index", action, "-profile", "x"]) == 2
    assert capsys.readouterr().err.startswith("flag provided but not defined: -profile\n")


def test_flags_may_come_before_the_action(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(files)
    capsys.readouterr()
    assert main(["index", "-ca", str(files / "ca.pem"), "lookup", str(path), "20"]) == 0
    assert json.loads(capsys.readouterr().out)["sha1"]["status"] == "revoked"
    assert main(["index", "-h"]) == 0
    assert "ocspd index build -h" in capsys.readouterr().err


def test_a_serial_that_is_not_there_is_said_so_with_exit_code_1(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(files)
    assert main(["index", "lookup", str(path), "999", "-ca", str(files / "ca.pem")]) == 1
    assert "999 is not in the index" in capsys.readouterr().out


def test_verify_checks_every_signature(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(files)
    assert main(["index", "verify", str(path), "-ca", str(files / "ca.pem")]) == 0
    assert "sound: 20 responses checked, 0 failed" in capsys.readouterr().out


def test_verify_finds_a_forged_answer(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (files / "dump").read_bytes().split(b"\n")
    der = bytearray(base64.b64decode(lines[4]))
    at = der.index(b"\x02\x01\x05\x80\x00")
    der[at + 2] = 77  # the answer to serial 5, made to speak of serial 77
    lines[4] = base64.b64encode(der)
    (files / "dump").write_bytes(b"\n".join(lines))
    path = build(files)
    assert main(["index", "verify", str(path), "-ca", str(files / "ca.pem")]) == 1
    output = capsys.readouterr()
    assert "NOT SOUND: 20 responses checked, 1 failed" in output.out
    assert "serial 77 (sha1): it has a signature that does not verify" in output.err


def test_verify_names_a_segment_whose_octets_changed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(files)
    (segment,) = path.glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[5000] ^= 1
    segment.write_bytes(data)
    assert main(["index", "verify", str(path), "-ca", str(files / "ca.pem")]) == 1
    assert segment.name in capsys.readouterr().err


def test_merge_leaves_one_segment_without_the_answers_that_were_replaced(files: Path) -> None:
    path = build(files)
    directory = IndexDirectory(path)
    with directory.lock(), directory.writer(0) as writer:
        writer.add(CHAIN.signer().sign(serial=3, status=CertStatus.REVOKED, reason=1, revoked_at=REVOKED_AT))
        writer.finish()
        before = directory.manifest()
        assert before is not None
        directory.publish([directory.adopt(writer.path), *before.segments], 0)
    assert main(["index", "merge", str(path)]) == 0
    index = directory.open()
    assert len(index.segments) == 1
    assert index.entries == 20
    key = index.segments[0].issuer_keys[0]
    found = index.lookup(*key, 3)
    assert found is not None
    assert found.status == 1


def test_nothing_usable_leaves_the_index_as_it_was(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(files)
    (files / "dump").write_bytes(b"junk\n")
    assert main(["index", "build", "-o", str(path), "-responses", str(files / "dump")]) == 1
    assert "no usable response" in capsys.readouterr().err
    manifest = IndexDirectory(path).manifest()
    assert manifest is not None
    assert manifest.generation == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["index"], 2, "requires one of"),
        (["index", "look"], 2, 'index has no "look": use one of build, stats'),
        (["db", "sideways"], 2, 'db has no "sideways": use one of up, down, status'),
        (["index", "stats"], 2, "takes an index directory"),
        (["index", "stats", "/nonexistent"], 1, "nothing has been published here"),
        (["index", "merge", "/nonexistent"], 1, "nothing has been published here"),
        (["index", "build", "-o", "x"], 1, "nothing to build from"),
        (["index", "build", "-responses", "x"], 1, "need index directory"),
        (["index", "lookup", "x", "zz", "-ca", "x"], 1, "is not a number"),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert words in capsys.readouterr().err
