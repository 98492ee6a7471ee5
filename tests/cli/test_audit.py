"""The verb `audit` as auditors use it."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from tests.authority.audit.logs import entry, opened, written
from tests.binary import ocspd

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    written(path, 12)
    return path


def test_verify_ends_with_0_for_a_whole_log(log: Path) -> None:
    run = ocspd("audit", "verify", log)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("OK: entries 1 to 14 in 1 file, 2 checkpoints (key ")


def test_verify_ends_with_1_and_names_file_and_line(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"serial":"3"', b'"serial":"8"'))
    run = ocspd("audit", "verify", log)
    assert run.returncode == 1
    assert run.stdout.splitlines()[0] == (
        f"{log}:4: entry 4 was changed: entry 5 carries another SHA-256 of it"
    )
    assert "1 problems: entries 1 to 14" in run.stdout


def test_verify_takes_a_key_and_a_checkpoint_from_elsewhere(log: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    key = elsewhere / "audit.pem"
    key.write_bytes((tmp_path / "audit.log.pub").read_bytes())
    line = log.read_bytes().splitlines()[-1]
    kept = elsewhere / "line-of-the-server.log"
    kept.write_bytes(b"2026/11/26 12:00:00 [INFO] audit checkpoint: " + line + b"\n")
    words = ("audit", "verify", "-key", key, "-checkpoint", kept, log)
    assert ocspd(*words).returncode == 0
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:10]))
    (tmp_path / "audit.log.checkpoint").unlink()
    run = ocspd(*words)
    assert run.returncode == 1
    assert "the last one is 10, but there was a checkpoint with the number 14" in run.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("verify",), 2, "audit verify needs the name of an audit log"),
        (("verify", "missing.log"), 1, "missing.log: no such audit log"),
        (("verify", "-key", "missing.pem", "audit.log"), 1, "open missing.pem: no such file"),
        (("verify", "-key", "audit.log", "audit.log"), 1, "audit.log: not an Ed25519 public key"),
        (("verify", "-key", "audit.log.key", "audit.log"), 1, "audit.log.key: not an Ed25519 public key"),
        (("verify", "-checkpoint", "audit.log", "audit.log"), 1, "audit.log: not a checkpoint of this log"),
        (("verify", "-from", "0", "audit.log"), 2, "use 1 to"),
        (("verify", "empty.log"), 1, "empty.log: is empty"),
        (("show", "-since", "yesterday", "audit.log"), 2, "write 2006-01-02"),
        (("show", "-since", "0001-01-01T00:00:00+05:00", "audit.log"), 2, "write 2006-01-02"),
        (("show", "-until", "9999-12-31T23:59:59-05:00", "audit.log"), 2, "write 2006-01-02"),
        (("show", "-serial", "x", "audit.log"), 1, "is not a number"),
        (("export", "-format", "xml", "audit.log"), 2, "use jsonl, json or csv"),
        (("reconcile", "audit.log"), 1, "need DB config file"),
        (("prune", "audit.log"), 2, "use one of verify, show, export, reconcile"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    log: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "empty.log").touch()
    run = ocspd("audit", *words, cwd=tmp_path)
    assert run.returncode == code
    assert told in run.stderr.splitlines()[0]


def test_verify_without_any_key_asks_for_one(log: Path) -> None:
    log.with_name("audit.log.pub").unlink()
    run = ocspd("audit", "verify", log)
    assert (run.returncode, run.stdout) == (1, "")
    assert "need the public key of checkpoints (provide with -key)" in run.stderr


def test_show_prints_a_line_for_each_entry_that_is_wanted(log: Path) -> None:
    assert len(ocspd("audit", "show", log).stdout.splitlines()) == 14
    assert ocspd("audit", "show", "-serial", "0x5", log).stdout == (
        "6 2026-11-26T12:00:05.000000Z issue serial=5 aki=ab12\n"
    )
    lines = ocspd("audit", "show", "-event", "checkpoint", "-last", "1", log).stdout.splitlines()
    assert [line.split()[:3:2] for line in lines] == [["14", "checkpoint"]]
    some = ocspd("audit", "show", "-since", "2026-11-26T12:00:02Z", "-until", "2026-11-26T12:00:04Z", log)
    assert [line.split()[3] for line in some.stdout.splitlines()] == ["serial=2", "serial=3"]


def test_a_line_with_a_time_that_does_not_exist_hides_no_other(log: Path) -> None:
    for time in ("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "yesterday"):
        with log.open("a") as file:
            file.write(json.dumps({"n": 99, "prev": "0" * 64, "time": time, "event": "issue"}) + "\n")
    run = ocspd("audit", "show", "-since", "2026-11-26T12:00:08Z", log)
    assert (run.returncode, run.stderr) == (0, "")
    assert "serial=8" in run.stdout
    assert " 99 " not in f" {run.stdout}"


def test_a_line_with_members_of_another_kind_hides_no_other(log: Path) -> None:
    odd = {"n": 99, "prev": "0" * 64, "time": 7, "event": [1], "client": [1], "sans": [{"a": 1}]}
    last = {"n": 100, "prev": "0" * 64, "event": "issue", "client": "deploy"}
    with log.open("a") as file:
        file.write(f"{json.dumps(odd)}\n{json.dumps(last)}\n")
    run = ocspd("audit", "show", "-client", "deploy", log)
    assert (run.stdout, run.stderr) == ("100 - issue client=deploy\n", "")
    run = ocspd("audit", "export", "-format", "csv", log)
    assert (run.stderr, run.stdout.splitlines()[-1][:3]) == ("", "100")


def test_verify_prints_nothing_that_a_line_could_forge(log: Path) -> None:
    forged = "x\nOK: entries 1 to 16 in 1 file\x1b[2J"
    with log.open("a") as file:
        for more in ({"event": "torn", "kept": forged}, {"event": "recovered", "since": forged}):
            file.write(json.dumps({"n": 15, "prev": "0" * 64} | more) + "\n")
    run = ocspd("audit", "verify", log)
    assert (run.returncode, run.stderr) == (1, "")
    assert "\x1b" not in run.stdout
    assert not any(line.startswith("OK") for line in run.stdout.splitlines())


def test_show_keeps_what_a_client_sent_off_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = opened(path)
    file.append([entry(1, label="a\x1b[2J\nb \u202e", sans=["x y", "z"], client="ops")])
    file.close()
    shown = ocspd("audit", "show", path).stdout
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()
    assert 'sans=["x y", "z"]' in shown
    assert ocspd("audit", "show", "-client", "other", path).stdout == ""
    assert ocspd("audit", "show", "-client", "ops", path).stdout == shown


def test_export_writes_json_lines_a_list_and_csv(log: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in ocspd("audit", "export", log).stdout.splitlines()]
    assert [line["n"] for line in lines] == list(range(1, 15))
    assert json.loads(ocspd("audit", "export", "-format", "json", log).stdout) == lines
    assert json.loads(ocspd("audit", "export", "-format", "json", "-event", "none", log).stdout) == []
    rows = list(csv.DictReader(io.StringIO(ocspd("audit", "export", "-format", "csv", log).stdout)))
    assert [row["n"] for row in rows] == [str(number) for number in range(1, 15)]
    assert rows[0]["serial"] == "0"
    assert json.loads(rows[-1]["more"])["every"] == 10


def test_a_spreadsheet_runs_nothing_that_a_client_sent(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = opened(path)
    file.append([entry(1, label='=HYPERLINK("http://x")', common_name="+1", sans=["@a"])])
    file.close()
    (row,) = csv.DictReader(io.StringIO(ocspd("audit", "export", "-format", "csv", path).stdout))
    assert [row["label"], row["common_name"], row["sans"]] == ['\'=HYPERLINK("http://x")', "'+1", "'@a"]


def test_reconcile_compares_with_the_database_of_a_configuration(log: Path, tmp_path: Path) -> None:
    config = tmp_path / "db.json"
    config.write_text(json.dumps({"driver": "sqlite3", "data_source": str(tmp_path / "certs.db")}))
    assert ocspd("db", "up", "-db-config", config).returncode == 0
    run = ocspd("audit", "reconcile", "-db-config", config, log)
    assert run.returncode == 1
    lines = run.stdout.splitlines()
    assert lines[0] == "serial 0 aki ab12: is in the log, but not in the database (entry 1)"
    assert lines[-1].startswith("12 differences: 12 certificates in the log, 0 unexpired in the database")
