"""Python's `re` only for patterns of our own, in forms that cannot be misread; what users write is RE2.

In `re` a `$` lets a newline through, and the classes of digits, letters and spaces take every script's.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ocspd

ROOT = Path(ocspd.__file__).parent
COMPILING = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if "demo" not in path.name)
BUILT = {"index/directory.py", "index/store.py"}
"""Patterns made of constants of the module itself, for error texts and names of our own files."""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr in COMPILING
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_A6_patterns_of_re_are_our_own_and_mean_what_they_say(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name in BUILT:
        return
    for call in calls(ast.parse(path.read_text("utf-8"))):
        where = f"{name}:{call.lineno}"
        pattern = call.args[0]
        parts = [node.value for node in ast.walk(pattern) if isinstance(node, ast.Constant)]
        open_ends = [
            node for node in ast.walk(pattern) if isinstance(node, ast.Name | ast.Call | ast.Attribute)
        ]
        assert not open_ends, f"{where}: a pattern that is not written down: use RE2"
        text = parts[-1] if isinstance(parts[-1], str | bytes) else ""
        shown = "".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in parts)
        assert not shown.endswith("$"), f"{where}: $ lets a newline through: use fullmatch"
        classes = any(f"\\{letter}" in shown for letter in "dwsDWS")
        ascii_only = isinstance(text, bytes) or "re.ASCII" in ast.unparse(call)
        assert ascii_only or not classes, f"{where}: needs re.ASCII"


def test_A6_only_one_module_compiles_what_users_write() -> None:
    users = [path.name for path in MODULES if "import re2" in path.read_text("utf-8")]
    assert users == ["go_regexp.py"]
