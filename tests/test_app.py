"""The assembly is in app.py, and nowhere else."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from ocspd import app
from ocspd.clock import SystemClock
from ocspd.errors import CodedError
from tests.test_layering import SOURCE, imports

if TYPE_CHECKING:
    from pathlib import Path


def test_a_database_configuration_is_opened_in_one_place() -> None:
    places = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("open_certdb")
    }
    assert places == {"app.py"}


@pytest.mark.parametrize("verb", ["serve", "refresh", "ocspserve"])
def test_a_verb_that_stays_declares_flags_and_leaves_the_rest_to_the_assembly(verb: str) -> None:
    path = SOURCE / "cli" / f"{verb}.py"
    named = {name for _, name in imports(ast.parse(path.read_text()), f"ocspd.cli.{verb}", is_package=False)}
    rooms = {name.split(".")[1] for name in named if name.startswith("ocspd.")}
    assert rooms & {"certdb", "index", "ops", "responder"} == set()
    assert "app" in rooms


async def test_the_error_of_a_database_configuration_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "db.json"
    with pytest.raises(CodedError, match=r"configuration file: open .+db\.json: no such"):
        await app.open_database(str(path), SystemClock())
    path.write_text('{"driver": "sqlite3"}')
    with pytest.raises(CodedError, match=r"db\.json: ") as caught:
        await app.open_database(str(path), SystemClock())
    assert caught.value.code == 5200
    path.write_text('{"driver": "sqlite3", "data_source": "' + str(tmp_path / "certs.db") + '"}')
    async with await app.open_database(str(path), SystemClock()) as db:
        assert "certs.db" in db.name
