from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path

import pytest

from ocspd import config as config_module
from ocspd.authority.access.policy import OPEN, parse_access
from ocspd.cli.flags import parse
from ocspd.cli.main import find_verb
from ocspd.config import IssuerConfig, SignerConfig, load_signer_config
from ocspd.pki.config_json import parse_config
from tests.deploy.balanced import DEPLOY, nginx_main
from tests.tools import HAS_RUN_SYSTEMD, NO_RUN_SYSTEMD, do_without, need

RULES = DEPLOY / "prometheus" / "ocspd.rules.yml"
UNITS = sorted(path.name for path in (DEPLOY / "systemd").iterdir() if path.suffix != ".conf")


def run(*argv: str | Path) -> str:
    """Run a checking tool; its whole output is the failure message."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def systemd_analyze() -> str:
    """Return the path of systemd-analyze, which makes a directory of systemd's where systemd does not run."""
    tool = need("systemd-analyze")
    if not HAS_RUN_SYSTEMD:
        do_without(NO_RUN_SYSTEMD)
    return tool


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the units whose commands exist: systemd-analyze wants to see executable files.

    A container may lack procps, whose /bin/kill has the units reload.
    """
    program = tmp_path / "ocspd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        for command in ("/opt/ocspd/bin/ocspd", "/bin/kill"):
            text = text.replace(f"={command} ", f"={program} ")
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_accepts_the_units_without_a_warning(units: Path) -> None:
    tool = systemd_analyze()
    output = run(tool, "verify", "--man=no", "--recursive-errors=no", *[units / name for name in UNITS])
    # Only lines about our units count: the machine's own units may have warnings of theirs.
    assert [line for line in output.splitlines() if "ocspd" in line] == []


@pytest.mark.parametrize("unit", [name for name in UNITS if name.endswith(".service")])
def test_services_are_sandboxed(units: Path, unit: str) -> None:
    # systemd's exposure runs from 0 to 10; the threshold is in tenths. What is left is the network and, for
    # the authority, an account of its own.
    run(systemd_analyze(), "security", "--offline=true", "--threshold=20", units / unit)


def test_sysusers_accepts_the_account() -> None:
    run(need("systemd-sysusers"), "--dry-run", DEPLOY / "systemd" / "ocspd.sysusers.conf")


def test_haproxy_accepts_the_configuration_without_a_warning() -> None:
    output = run(need("haproxy"), "-c", "-V", "-f", DEPLOY / "haproxy" / "haproxy.cfg")
    assert not re.search("warning|alert", output, re.IGNORECASE), output


def test_nginx_accepts_the_configuration_without_a_warning(tmp_path: Path) -> None:
    main = nginx_main(tmp_path, DEPLOY / "nginx" / "ocspd.conf")
    output = run(need("nginx"), "-t", "-e", "stderr", "-p", tmp_path, "-c", main)
    assert "[warn]" not in output, output


def test_promtool_accepts_the_scrape_configuration_and_the_rules() -> None:
    tool = need("promtool")
    run(tool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(tool, "check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_alerts_fire_on_the_series_they_are_meant_for() -> None:
    run(need("promtool"), "test", "rules", Path(__file__).parent / "alerts_test.yml")


def test_the_authority_accepts_its_configuration_and_is_closed() -> None:
    data = (DEPLOY / "authority.json").read_bytes()
    signing = parse_config(data)
    assert (signing.unknown, signing.doubts) == ((), ())
    policy = parse_access(data, signing.auth_keys, signing.profiles)
    assert policy is not None
    assert policy.open == OPEN
    assert {client.name for client in policy.clients} == {"deploy", "ra", "auditor"}


def test_the_authoritys_unit_demands_authentication_limits_rates_and_keeps_a_log() -> None:
    text = (DEPLOY / "systemd" / "ocspd-authority.service").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^ExecStart=/opt/ocspd/bin/ocspd serve (.*)$", text, re.MULTILINE)
    verb = find_verb("serve")
    assert verb is not None
    flags, rest = parse(command.split(), verb.declared())
    assert rest == []
    assert flags.boolean("require-auth")
    assert flags.integer("rate-limit") > 0
    assert flags.string("audit-log").startswith("/var/lib/ocspd-authority/")
    assert flags.string("address") == "127.0.0.1"


def test_the_signer_daemon_accepts_its_configuration() -> None:
    config = load_signer_config(str(DEPLOY / "ocspd.toml"))
    assert config.index == "/var/lib/ocspd/index"
    assert len(config.issuer) == 1


def test_the_signer_daemons_configuration_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (DEPLOY / "ocspd.toml").read_text()
    keys = re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)
    known = {entry.name for kind in (SignerConfig, IssuerConfig) for entry in fields(kind)}
    assert sorted(keys) == sorted(known - {"issuer"})
    every = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    for kind, table in (
        (SignerConfig, tomllib.loads(every)),
        (IssuerConfig, tomllib.loads(every)["issuer"][0]),
    ):
        for entry in fields(kind):
            if entry.default is not MISSING and entry.default not in ("", ()):
                (tmp_path / "ocspd.toml").write_text(_only(kind, entry.name, table[entry.name]))
                loaded = load_signer_config(tmp_path / "ocspd.toml")
                value = getattr(loaded if kind is SignerConfig else loaded.issuer[0], entry.name)
                assert value == entry.default, f"{entry.name}: the file shows another default"


def _only(kind: type, name: str, value: object) -> str:
    """Return a configuration with this key and those that are required."""
    line = f"{name} = {json.dumps(value)}\n"
    top, issuer = (line, "") if kind is SignerConfig else ("", line)
    required = 'ca = "ca.pem"\nresponder = "ocsp.pem"\nresponder_key = "ocsp-key.pem"\n'
    return f'index = "index"\ndb_config = "db.json"\n{top}[[issuer]]\n{required}{issuer}'


def test_the_configurations_manual_explains_every_key() -> None:
    """Each field of the dataclasses is followed by a text, as nobody documents the file a second time."""
    tree = ast.parse(Path(config_module.__file__).read_text())
    explained = set()
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for one, following in pairwise(kind.body):
            if (
                isinstance(one, ast.AnnAssign)
                and isinstance(one.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                explained.add((kind.name, one.target.id))
    keys = {(kind.__name__, entry.name) for kind in (SignerConfig, IssuerConfig) for entry in fields(kind)}
    assert keys - explained == set()
