"""The tables of docs/cfssl-compat.md name everything that CFSSL has, and say of it what is true."""

from __future__ import annotations

import re

import pytest

from ocspd.authority.api import endpoints, openapi
from ocspd.cli.global_flags import GLOBAL_FLAGS
from ocspd.cli.main import _VERBS
from ocspd.cli.programs import CFSSL_VERBS, PROGRAMS
from ocspd.pki import config_json, csr
from tests.tools import ROOT

PAGE = ROOT / "docs" / "cfssl-compat.md"
STATES = ("same", "differs", "no effect", "new", "missing")


def table(heading: str) -> list[tuple[list[str], str, str]]:
    """The rows of the table under a heading: names in the first column, state, third column."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| `")]
    assert rows, heading
    found = []
    for cells in rows:
        names, state, note = (cell.strip() for cell in (*cells, "", "")[:3])
        assert state in STATES, f"{names}: {state!r} is not a state"
        found.append((re.findall(r"`([^`]+)`", names), state, note))
    return found


def states(heading: str) -> dict[str, str]:
    """The state of every name of a table; each is there once."""
    found = [(name, state) for names, state, _ in table(heading) for name in names]
    assert len(dict(found)) == len(found), "a name is in the table twice"
    return dict(found)


def fields(heading: str) -> dict[str, list[str]]:
    """The names in the third column, by those in the first."""
    return {name: re.findall(r"`([^`]+)`", note) for names, _, note in table(heading) for name in names}


def test_every_program_and_verb_is_in_the_table() -> None:
    found = states("Programs and verbs")
    assert found.keys() == {*PROGRAMS, *CFSSL_VERBS, *_VERBS}
    ours = {name for name, state in found.items() if state == "new"}
    assert ours == _VERBS.keys() - {*CFSSL_VERBS, *PROGRAMS}
    missing = {name for name, state in found.items() if state == "missing"}
    assert missing == set(CFSSL_VERBS) - _VERBS.keys()


def test_every_flag_of_cfssl_is_in_the_table() -> None:
    found = {name.removeprefix("-"): state for name, state in states("Flags").items()}
    assert found.keys() == GLOBAL_FLAGS.keys()
    unused = {name for name, flag in GLOBAL_FLAGS.items() if "(not used)" in flag.help}
    assert {name for name, state in found.items() if state == "no effect"} == unused


def test_every_endpoint_is_in_the_table_with_the_fields_of_its_requests() -> None:
    found = states("Endpoints")
    assert {name for name, state in found.items() if state != "new"} == set(endpoints.NAMES)
    told = fields("Endpoints")
    for name in endpoints.NAMES:
        operation = openapi.OPERATIONS[f"/api/v1/cfssl/{name}"]
        expected = set((operation.request or {}).get("properties", ()))
        if name in {"newkey", "init_ca"}:
            expected -= openapi.CSR_FIELDS.keys()
        assert {word for word in told[name] if not word.startswith("?")} >= expected, name
        if operation.method == "POST":
            assert set(told[name]) == expected, name


def test_every_field_of_a_profile_is_in_the_table() -> None:
    found = states("Signing configuration")
    assert found.keys() == set(config_json._PROFILE_KEYS)
    below = fields("Signing configuration")
    for name in ("ca_constraint", "CSRWhitelist"):
        assert below[name] == list(config_json._KEYS_BELOW[name])


def test_every_field_of_csr_json_is_in_the_table() -> None:
    assert states("CSR JSON").keys() == set(csr._REQUEST_KEYS)
    below = fields("CSR JSON")
    assert below["names"] == list(csr._NAME_KEYS)
    assert below["ca"] == list(csr._CA_KEYS)


def test_links_within_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize("word", ["(planned)", "not in this version", "not there yet"])
def test_nothing_is_promised_for_later(word: str) -> None:
    assert word not in PAGE.read_text()
