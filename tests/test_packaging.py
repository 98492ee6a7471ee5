from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import ocspd
from tests.tools import tracked_files

ROOT = Path(__file__).parent.parent
NATIVE = {path.relative_to(ROOT / "src").with_suffix("") for path in (ROOT / "src").rglob("*.pyx")}
WRITTEN_BY_TOOLS = {"PKG-INFO", "setup.cfg", "src/ocspd.egg-info/SOURCES.txt"}

pytestmark = pytest.mark.timeout(900)  # compiles all native modules


def run(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        words,
        cwd=cwd,
        check=False,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source distribution, made from the tracked files, and a wheel made from it alone."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in tracked_files():
        target = folder / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    # Without isolation: with the packages that are installed here, so that no network is needed.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ".", cwd=folder / "clone")
    return folder


def test_the_source_distribution_has_every_tracked_file_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names - WRITTEN_BY_TOOLS == set(tracked_files())


def test_the_wheel_has_what_runs_and_no_source_that_was_only_compiled(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {name for name in names if name.endswith(".so")} == {f"{name}{suffix}" for name in NATIVE}
    tracked = [Path(name) for name in tracked_files() if name.startswith("src/ocspd/")]
    pages = {str(name.relative_to("src")) for name in tracked if name.suffix == ".html"}
    assert {name for name in names if name.endswith((".c", ".pyx", ".html", ".h"))} == pages
    assert {name.partition("/")[0] for name in names} == {"ocspd", path.name.split("-cp")[0] + ".dist-info"}
    wanted = {str(name.relative_to("src")) for name in tracked if name.suffix != ".pyx"}
    assert wanted <= names


def test_the_wheel_runs_the_demo_in_a_new_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "new", cwd=tmp_path)
    python = tmp_path / "new" / "bin" / "python"
    install = ("install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=tmp_path)
    # Its dependencies are those of this environment; a path file in a folder so named is not read, so
    # the ocspd that is installed here to be worked on stays out.
    (site,) = (tmp_path / "new" / "lib").glob("python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("platlib") + "\n")
    where = run(python, "-c", "import ocspd, ocspd._fastpath as f; print(f.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    assert run(tmp_path / "new" / "bin" / "ocspd", "version", cwd=tmp_path).startswith("Version: ")
    story = run(tmp_path / "new" / "bin" / "ocspd", "demo", "-once", cwd=tmp_path)
    assert "Everything is as expected" in story


def imported() -> set[str]:
    """Return the packages outside of the standard library that src/ocspd imports."""
    found = set()
    for path in (ROOT / "src" / "ocspd").rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE):
            found.add(name)
    return found - set(sys.stdlib_module_names) - {"ocspd", "multidict", "yarl"}  # aiohttp has types of these


def test_what_the_package_imports_is_among_its_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["lint"]]
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in needed}
    assert imported() == {{"google_re2": "re2"}.get(name, name) for name in names}


def test_the_package_knows_its_version_without_its_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ocspd.__version__ == project["version"]
