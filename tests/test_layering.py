from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools import tracked_files

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ocspd"

ROLES = ("authority", "signer", "responder")
"""The rooms of the architecture page; they do not import each other."""

FLOORS = {
    "__main__": 6,
    "cli": 6,
    "app": 5,
    "config": 5,
    **dict.fromkeys(ROLES, 4),
    "ops": 3,
    "client": 3,
    "certdb": 3,
    "inputs": 3,
    "index": 2,
    "pki": 2,
    **{path.stem: 1 for path in SOURCE.glob("*.pyx")},  # the request path; other native modules live in rooms
    "clock": 0,
    "errors": 0,
    "files": 0,
    "limits": 0,
    "logs": 0,
    "machine": 0,
    "metrics": 0,
    "model": 0,
    "recovery": 0,
    "shown": 0,
    "strict_json": 0,
    "tasks": 0,
    "wire": 0,
}
"""Floor of each part of the package; an import goes to a lower floor or stays in its room."""

SAME_FLOOR_ALLOWED = {
    ("app", "config"),  # the assembly reads the configuration
    ("__main__", "cli"),
    ("files", "machine"),
    ("client", "inputs"),  # a client's TLS key may be encrypted
}

CONFINED = {
    "cryptography": {"pki"},
    "pkilint": {"pki"},
    "re2": {"pki"},
    "asyncpg": {"certdb"},
    "pymysql": {"certdb"},
    "sqlite3": {"certdb"},
    "obstore": {"index"},
    "aiohttp": {"authority", "signer", "responder", "ops", "client"},
    "multidict": {"responder"},  # aiohttp's header type
    "yarl": {"authority", "client"},  # aiohttp's URL type
    "prometheus_client": {"authority", "signer", "responder", "ops"},
    "rich": {"cli"},
    "uvloop": {"cli"},
}
"""Third-party packages (and sqlite3) and the parts of ocspd that may import them."""

DISTRIBUTIONS = {"google-re2": "re2", "prometheus-client": "prometheus_client"}
"""Distributions whose module has another name."""

MAX_LINES = 600


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Name the top-level part of the package that a dotted module belongs to; "" is the package."""
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST, module: str, *, is_package: bool) -> list[tuple[int, str]]:
    """Every module imported anywhere in the file, under TYPE_CHECKING and in functions included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            if base == "ocspd":  # `from ocspd import errors` imports the submodule
                found += [(node.lineno, f"ocspd.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, base))
    return found


def python_imports() -> list[tuple[str, str, str]]:
    """(place, importing part, imported module) of all Python modules."""
    found = []
    for path in modules():
        module = dotted(path)
        tree = ast.parse(path.read_text(), str(path))
        for line, name in imports(tree, module, is_package=path.name == "__init__.py"):
            found.append((f"{path.relative_to(ROOT)}:{line}", part_of(module), name))
    return found


def native_imports() -> list[tuple[str, str, str]]:
    """Return the same for the Cython modules, which `ast` cannot read."""
    statement = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)
    found = []
    for path in sorted([*SOURCE.rglob("*.pyx"), *SOURCE.rglob("*.pxd")]):
        for match in statement.finditer(path.read_text()):
            name = match[1] or match[2]
            found.append((path.relative_to(ROOT).as_posix(), part_of(dotted(path)), name))
    return found


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {part_of(dotted(path)) for path in modules()} - {""}
    assert parts <= set(FLOORS), f"no floor for {sorted(parts - set(FLOORS))}"


def test_imports_only_go_down_the_floors() -> None:
    wrong = []
    for place, importer, imported in [*python_imports(), *native_imports()]:
        if not imported.startswith("ocspd."):
            continue
        target = part_of(imported)
        if target.startswith("__") or target == importer:
            continue
        if not importer:
            wrong.append(f"{place}: the package itself imports {imported}")
            continue
        # Floor 0 is a flat vocabulary, floor 1 a ladder (see below): their modules may use each other.
        same_allowed = FLOORS[target] <= 1 or (importer, target) in SAME_FLOOR_ALLOWED
        if FLOORS[target] > FLOORS[importer] or (FLOORS[target] == FLOORS[importer] and not same_allowed):
            floors = f"{FLOORS[importer]} -> {FLOORS[target]}"
            wrong.append(f"{place}: {importer} imports {imported} ({floors})")
    assert not wrong, "\n".join(wrong)


def test_no_native_module_uses_itself_in_a_circle() -> None:
    uses: dict[str, set[str]] = {}
    for place, _, imported in native_imports():
        module = dotted(ROOT / place)
        if imported.startswith("ocspd.") and imported != module:
            uses.setdefault(module, set()).add(imported)
    graphlib.TopologicalSorter(uses).prepare()  # raises CycleError, which names the circle


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, without what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from at_run_time(child)


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports in functions count: one that is put off to break a circle hides it."""
    known = {dotted(path) for path in modules()}
    uses: dict[str, set[str]] = {}
    for path in modules():
        module = dotted(path)
        names: set[str] = set()
        for node in at_run_time(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & known
                names |= parts or {node.module or ""}
        uses[module] = names & known - {module, "ocspd"}
    graphlib.TopologicalSorter(uses).prepare()  # raises CycleError, which names the circle


def test_third_party_packages_stay_where_they_belong() -> None:
    wrong = []
    for place, importer, imported in [*python_imports(), *native_imports()]:
        top = imported.split(".")[0]
        if top in CONFINED:
            if importer not in CONFINED[top]:
                wrong.append(f"{place}: {top} belongs to {', '.join(sorted(CONFINED[top]))} only")
        elif top not in sys.stdlib_module_names and top not in {
            "ocspd",
            "cpython",
            "libc",
            "posix",
            "cython",
        }:
            wrong.append(f"{place}: {top} is neither the standard library nor a known dependency")
    assert not wrong, "\n".join(wrong)


def test_every_runtime_dependency_is_known_to_the_confinement_table() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[<>=;~! ]", line)[0] for line in project["dependencies"]]
    assert {DISTRIBUTIONS.get(name, name) for name in names} <= set(CONFINED)


def test_no_module_is_longer_than_six_hundred_lines() -> None:
    files = [*modules(), *sorted(SOURCE.rglob("*.pyx")), *sorted((ROOT / "bench").glob("*.py"))]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


IMPORT_ALONE = """
import json, os, signal, sys, threading, warnings
warnings.simplefilter("error")
names, problems = json.loads(sys.argv[1]), {}
for name in names:
    # One child per module: nothing that another module imported before can hide a missing import.
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with open(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        if text != "ok":
            problems[name] = text or "the import ended the process"
        continue
    os.close(reader)
    os.dup2(writer, 1), os.dup2(writer, 2)  # whatever an import prints is a side effect
    import logging
    def state():
        return {
            "environment": dict(os.environ),
            "directory": (os.getcwd(), sorted(os.listdir("."))),
            "threads": threading.active_count(),
            "signals": [signal.getsignal(n) for n in signal.valid_signals()],
            "log handlers": [list(map(repr, logging.getLogger(n).handlers)) for n in ("", "ocspd")],
            "open files": len(os.listdir("/proc/self/fd")),
        }
    before = state()
    try:
        __import__(name)
        after = state()
        text = ", ".join(f"changes {key}" for key in before if before[key] != after[key]) or "ok"
    except BaseException as err:
        text = f"{type(err).__name__}: {err}"
    os.write(writer, text.encode())
    os._exit(0)
print(json.dumps(problems))
"""


def test_every_module_imports_alone_without_side_effects_or_warnings(tmp_path: Path) -> None:
    names = [dotted(path) for path in modules() if path.name != "__main__.py"]
    names += [dotted(path) for path in sorted(SOURCE.rglob("*.pyx"))]
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE, json.dumps(names)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=280,
    )
    assert json.loads(run.stdout) == {}


def tracked_text() -> list[tuple[str, str]]:
    found = []
    for name in tracked_files():
        path = ROOT / name
        data = path.read_bytes()
        if path != Path(__file__) and b"\0" not in data:
            found.append((name, data.decode("utf-8", "replace")))
    return found


FORBIDDEN = {
    r"/(?:work|root|home)/\w": "a path of somebody's machine",
    r"(?:files\.pythonhosted|pypi|proxy\.golang)\.org": "the host of a package registry",
    r"-----BEGIN (?:RSA |EC |ENCRYPTED )?PRIVATE KEY-----\n[A-Za-z0-9+/]{40}": "a private key",
    r"\b[Ii]ssue \d": "a number of a tracker that the reader does not have",
    r"\bshared/(?:design|reference|seeds)": "a file outside of the repository",
    r"<<<<<<< |>>>>>>> ": "a merge conflict",
}


def test_tracked_files_name_nothing_of_the_machine_they_were_written_on() -> None:
    wrong = []
    for name, text in tracked_text():
        for pattern, what in FORBIDDEN.items():
            for match in re.finditer(pattern, text):
                line = text.count("\n", 0, match.start()) + 1
                wrong.append(f"{name}:{line}: {match[0][:40]!r} is {what}")
    assert not wrong, "\n".join(wrong)


def test_no_error_travels_in_a_group_of_errors() -> None:
    """CPython before 3.11.4 wraps what `except*` raises, a TaskGroup whatever fails in it: see tasks.py."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.TryStar), f"{path.name}:{node.lineno}: except*"
            if isinstance(node, ast.Attribute | ast.Name) and path.name != "tasks.py":
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                assert name != "TaskGroup", f"{path.name}:{node.lineno}: use tasks.Tasks"


def test_no_cancellation_is_lost_in_wait_for() -> None:
    """Before CPython 3.12 `asyncio.wait_for` forgets a cancellation that comes with its result."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr != "wait_for", f"{path.name}:{node.lineno}: use tasks.time_limit"


def test_time_limits_are_those_that_count_in_a_cancelled_task() -> None:
    """On CPython 3.11.2 `asyncio.timeout` raises CancelledError there; see `ocspd.tasks`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and path.name != "tasks.py":
                assert ast.unparse(node) != "asyncio.timeout", (
                    f"{path.name}:{node.lineno}: use tasks.time_limit"
                )


_REPLACES = {"setattr", "delattr", "setitem", "delitem"}


def imported(tree: ast.AST) -> dict[str, str]:
    """The names that a file's imports bind: the package each comes from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                module = node.module if isinstance(node, ast.ImportFrom) else alias.name
                found[alias.asname or alias.name.split(".")[0]] = (module or "").split(".")[0]
    return found


def patches(text: str) -> list[str]:
    """The statements of a test that replace a part of the package while it runs, or that bring in a mock.

    What is not ours may be replaced where there is no other way: the standard library's own modules.
    """
    tree = ast.parse(text)
    names = imported(tree)

    def origin(expression: ast.expr) -> str:
        if isinstance(expression, ast.Constant):
            return str(expression.value).split(".")[0]
        return names.get(ast.unparse(expression).split(".")[0], "")

    def replaces(node: ast.AST) -> bool:
        match node:
            case ast.Import():
                return any("mock" in alias.name.split(".") for alias in node.names)
            case ast.ImportFrom():
                return any("mock" in f"{node.module}.{alias.name}".split(".") for alias in node.names)
            case ast.Call(func=ast.Attribute(attr=name), args=[what, *_]) if name in _REPLACES:
                return origin(what) not in sys.stdlib_module_names
            case ast.Call(func=ast.Name(id=name), args=[what, *_]) if name in _REPLACES:
                return origin(what) == "ocspd"
            case ast.Assign(targets=[ast.Attribute() as target]):
                return origin(target) == "ocspd"
        return False

    return [ast.unparse(node) for node in ast.walk(tree) if replaces(node)]


@pytest.mark.parametrize(
    "statement",
    [
        "monkeypatch.setattr(pulling, 'START_S', 1)",
        "monkeypatch.setattr('ocspd.responder.pulling.START_S', 1)",
        "monkeypatch.setattr(Index, 'lookup', None)",
        "monkeypatch.setattr(remote._store, 'stream', None)",
        "monkeypatch.setitem(pulling.TABLE, 'a', 1)",
        "patch.delattr(pulling, 'START_S')",
        "setattr(pulling, 'START_S', 1)",
        "pulling.START_S = 1",
        "from unittest import mock",
        "from unittest.mock import patch",
        "import unittest.mock",
    ],
)
def test_what_patches_our_own_code_is_recognized(statement: str) -> None:
    allowed = "monkeypatch.setattr(os, 'getsid', None)\nmonkeypatch.setattr('sys.stdin', None)\nindex.x = 1\n"
    imports = "import os\nfrom ocspd._index import Index\nfrom ocspd.responder import pulling\n"
    assert patches(imports + allowed) == []
    assert patches(imports + allowed + statement) == [statement]


def test_no_test_patches_our_own_code() -> None:
    """What a test has to replace is an argument: a patched name is a seam nobody can see in the source."""
    found = {
        path.relative_to(ROOT).as_posix(): patches(path.read_text())
        for folder in ("tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert {name: statements for name, statements in found.items() if statements} == {}
