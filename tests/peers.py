"""The programs the tests compare ocspd with, without root: Debian's packages unpacked into .venv/peers.

`python -m tests.peers` fetches what is not installed, where apt is there. Nothing is installed on the
system and nothing of apt's is changed: its lists and its cache are beside the packages. tests/tools.py puts
the programs last in PATH, so one that is installed comes first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools import PEERS, PROGRAMS, find

_ROOT = PEERS / "root"
_PLACES = ("usr/sbin", "sbin", "usr/bin", "bin")
_APT_S = 600
_NOT_UNPACKED = {"chromium"}
"""Programs that run only from where Debian installs them."""

_WRAPPER = """\
#!/bin/sh
{settings}exec "{program}" "$@"
"""


def main() -> int:
    """Fetch what is missing and say what came of it; never a reason not to run the tests."""
    missing = [name for name in PROGRAMS if find(name) is None and name not in _NOT_UNPACKED]
    if not missing:
        return 0
    packages = sorted({PROGRAMS[name] for name in missing})
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        print(f"not installed: {', '.join(missing)}; tests that need them will be skipped (see README.md)")
        return 0
    print(f"fetching programs to compare with into {PEERS.relative_to(Path.cwd())}: {' '.join(packages)}")
    print(
        "    (from Debian's packages; nothing is installed on the system; make test PEERS=no skips this)",
        flush=True,
    )
    try:
        _fetch(missing)
    except (OSError, subprocess.SubprocessError) as err:
        told = getattr(err, "stderr", None)
        text = told.strip().splitlines()[-1] if isinstance(told, str) and told.strip() else str(err)
        print(f"    this failed: {text}")
    for name in missing:
        _make_wrapper(name)
    left = [name for name in missing if find(name) is None]
    if left:
        print(f"    still missing: {', '.join(left)}; tests that need them will be skipped")
    return 0


def _apt(*words: str, cwd: Path) -> str:
    """Run apt-get with lists and a cache of our own; returns what it printed."""
    for name in ("lists/partial", "cache/archives/partial"):
        (PEERS / name).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::Lists": PEERS / "lists",
        "Dir::Cache": PEERS / "cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",  # as root too: the user _apt may not write here
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
        "Acquire::http::Timeout": "20",
    }
    command = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items()), *words]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=cwd, env=environment, timeout=_APT_S
    )
    return done.stdout


def _fetch(missing: list[str]) -> None:
    """Download and unpack the packages of the missing programs and the libraries that this system lacks.

    Some releases have a program in a package of its own name, on which the package in PROGRAMS depends
    (promtool since Debian 13); then the latter is not needed.
    """
    archives = PEERS / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    _apt("update", cwd=archives)
    packages = sorted({PROGRAMS[name] for name in missing})
    told = _apt("--simulate", "--no-install-recommends", "install", *packages, cwd=archives)
    plan = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", told, re.MULTILINE)
    planned = {name for name, _ in plan}
    needed = {name if name in planned else PROGRAMS[name] for name in missing}
    wanted = [
        f"{name}={version}"
        for name, version in plan
        if name in needed or (name.startswith("lib") and not name.startswith(("libjs-", "libperl")))
    ]
    _apt("download", *wanted, cwd=archives)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive, _ROOT], check=True, capture_output=True, text=True)
    for folder in (archives, PEERS / "lists", PEERS / "cache"):
        shutil.rmtree(folder)


def _make_wrapper(name: str) -> None:
    """Put a program of the unpacked packages into PATH, if it runs from where it is."""
    program = next((_ROOT / place / name for place in _PLACES if (_ROOT / place / name).exists()), None)
    if program is None:
        return
    libraries = [
        folder / inner
        for place in ("usr/lib", "lib")
        for folder in (_ROOT / place).glob("*-linux-*")
        for inner in ("", "systemd")
        if (folder / inner).is_dir()
    ]
    settings = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "GIT_EXEC_PATH": f"{_ROOT}/usr/lib/git-core",
        "SYSTEMD_UNIT_PATH": f"{_ROOT}/usr/lib/systemd/system:{_ROOT}/lib/systemd/system:",
    }
    wrapper = PEERS / "bin" / name
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f'{key}="{value}" export {key}\n' for key, value in settings.items())
    wrapper.write_text(_WRAPPER.format(settings=lines, program=program))
    wrapper.chmod(0o755)
    done = subprocess.run([wrapper, "--version"], check=False, capture_output=True)
    if done.returncode in {126, 127}:  # a library is missing after all
        wrapper.unlink()


if __name__ == "__main__":
    sys.exit(main())
