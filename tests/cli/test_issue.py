from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from ocspd.certdb import DBConfig, open_certdb
from ocspd.clock import SystemClock
from ocspd.pki.certs import aki_hex
from tests.authority.cfssl import AUTH_KEY, cfssl_serve
from tests.binary import OCSPD, ocspd
from tests.pki.der import extension_list, shape
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: dict[str, Any] = {
    "signing": {
        "default": {"expiry": "100h", "usages": ["signing", "server auth"]},
        "profiles": {
            "client": {"expiry": "1h", "usages": ["signing", "client auth"], "ocsp_url": "http://o"},
            "far": {"expiry": "1h", "usages": ["signing"], "auth_key": "k"},
        },
    },
    "auth_keys": {"k": {"type": "standard", "key": AUTH_KEY}},
}


@pytest.fixture(scope="session")
def material_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, ca-key.pem, leaf.csr, leaf-key.pem and config.json, all made by ocspd."""
    directory = tmp_path_factory.mktemp("issue")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    for name, words in (("ca", ["gencert", "-initca"]), ("leaf", ["genkey"])):
        (directory / f"{name}.json").write_text(json.dumps({"CN": name, "hosts": ["leaf.example"]}))
        made = result(ocspd(*words, f"{name}.json", cwd=directory))
        for key, file in (("cert", f"{name}.pem"), ("key", f"{name}-key.pem"), ("csr", f"{name}.csr")):
            if key in made:
                (directory / file).write_text(made[key])
    return directory


def result(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the JSON on stdout, which is one compact line with sorted keys."""
    assert run.returncode == 0, run.stderr
    made: dict[str, str] = json.loads(run.stdout)
    assert run.stdout == json.dumps(made, separators=(",", ":"), sort_keys=True) + "\n"
    return made


def certificate(run: subprocess.CompletedProcess[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(result(run)["cert"].encode())


def messages(stderr: str) -> list[str]:
    """Return log lines without their times, serial numbers masked."""
    lines = [re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line) for line in stderr.splitlines()]
    return [re.sub(r"serial number \d+$", "serial number N", line) for line in lines]


CA = ("-ca", "ca.pem", "-ca-key", "ca-key.pem")


def test_a_ca_is_printed_and_logged_as_cfssl_does() -> None:
    request = json.dumps({"CN": "root"})
    mine = ocspd("gencert", "-initca", "-", "-loglevel=1", stdin=request)
    command = [need("cfssl"), "gencert", "-initca", "-"]
    theirs = subprocess.run(command, input=request, capture_output=True, text=True, check=True, timeout=120)
    assert list(result(mine)) == list(json.loads(theirs.stdout)) == ["cert", "csr", "key"]
    assert messages(mine.stderr) == messages(theirs.stderr)


def test_a_certificate_is_printed_and_logged_as_cfssl_does(material_of_ours: Path) -> None:
    words = ["gencert", *CA, "-config", "config.json", "-profile", "client", "leaf.json"]
    mine = ocspd(*words, cwd=material_of_ours)
    theirs = subprocess.run(
        [need("cfssl"), *words], cwd=material_of_ours, capture_output=True, text=True, check=True, timeout=120
    )
    assert list(result(mine)) == list(json.loads(theirs.stdout))
    assert messages(mine.stderr) == messages(theirs.stderr)
    other = shape(x509.load_pem_x509_certificate(json.loads(theirs.stdout)["cert"].encode()))
    same = shape(certificate(mine))
    assert (same.subject, same.issuer, same.lifetime) == (other.subject, other.issuer, other.lifetime)
    assert [item[:2] for item in same.extensions] == [item[:2] for item in other.extensions]


def test_sign_echoes_the_request_as_it_was_read(material_of_ours: Path) -> None:
    text = "a line before\n" + (material_of_ours / "leaf.csr").read_text() + "\nand after <&>\n"
    run = ocspd("sign", *CA, "-", cwd=material_of_ours, stdin=text)
    assert json.loads(run.stdout)["csr"] == text
    assert "\\u003c\\u0026\\u003e" in run.stdout
    assert run.stdout.startswith('{"cert":"-----BEGIN CERTIFICATE-----\\n')


def test_sign_takes_the_request_from_its_flag_and_a_subject_from_a_file(material_of_ours: Path) -> None:
    (material_of_ours / "subject.json").write_text('{"CN": "other", "names": [{"O": "New"}]}')
    run = ocspd("sign", *CA, "-csr", "leaf.csr", "subject.json", cwd=material_of_ours)
    assert certificate(run).subject.rfc4514_string() == "CN=other,O=New"


def test_hostname_is_split_at_commas_and_not_trimmed(material_of_ours: Path) -> None:
    run = ocspd(
        "gencert", *CA, "-hostname", "a, b,10.0.0.1", "-cn", "named", "leaf.json", cwd=material_of_ours
    )
    made = certificate(run)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a", " b"]
    assert made.subject.rfc4514_string() == "CN=named"


def test_crl_overrides_the_distribution_point(material_of_ours: Path) -> None:
    made = certificate(ocspd("gencert", *CA, "-crl", "http://c.example/x", "leaf.json", cwd=material_of_ours))
    assert any(b"http://c.example/x".hex() in value for _, _, value in extension_list(made))


@pytest.mark.parametrize(
    ("profile", "warned"), [("", True), ("client", False)], ids=["server auth", "client auth"]
)
def test_missing_hosts_are_warned_of_where_servers_are_meant(
    material_of_ours: Path, profile: str, *, warned: bool
) -> None:
    words = ["gencert", *CA, "-config", "config.json", "-profile", profile, "-"]
    run = ocspd(*words, cwd=material_of_ours, stdin='{"CN": "x"}')
    assert run.stderr.count("[WARNING]") == (4 if warned else 0)
    assert ('lacks a "hosts" field' in run.stderr) == warned


def test_keys_come_from_files_and_variables(material_of_ours: Path) -> None:
    key = (material_of_ours / "ca-key.pem").read_text()
    words = ["gencert", "-ca", "file:ca.pem", "-ca-key", "env:OCSPD_TEST_CA", "leaf.json"]
    assert certificate(ocspd(*words, cwd=material_of_ours, env={"OCSPD_TEST_CA": key}))


@pytest.mark.parametrize("form", [["-traditional"], []], ids=["traditional", "pkcs8"])
def test_an_encrypted_key_opens_with_the_password_in_the_environment(
    material_of_ours: Path, tmp_path: Path, form: list[str]
) -> None:
    words = ["pkey", "-in", str(material_of_ours / "ca-key.pem"), "-aes128", "-passout", "pass:opensesame"]
    subprocess.run([need("openssl"), *words, *form, "-out", str(tmp_path / "k.pem")], check=True, timeout=120)
    sign: list[str | Path] = ["sign", "-ca", "ca.pem", "-ca-key", tmp_path / "k.pem", "leaf.csr"]
    assert certificate(ocspd(*sign, cwd=material_of_ours, env={"CFSSL_CA_PK_PASSWORD": "opensesame"}))
    run = ocspd(*sign, cwd=material_of_ours, env={"CFSSL_CA_PK_PASSWORD": ""})
    assert (run.returncode, run.stdout) == (1, "")
    assert json.loads(run.stderr)["code"] == 2100
    run = ocspd(*sign, cwd=material_of_ours, env={"CFSSL_CA_PK_PASSWORD": "wrong"})
    assert (run.returncode, run.stdout) == (1, "")
    assert "k.pem: x509: decryption password incorrect" in run.stderr
    assert "code" not in run.stderr  # plain text, as in CFSSL


async def test_a_signed_certificate_is_in_the_database(material_of_ours: Path, tmp_path: Path) -> None:
    config = DBConfig("sqlite3", str(tmp_path / "certs.db"))
    (tmp_path / "db.json").write_text(
        json.dumps({"driver": config.driver, "data_source": config.data_source})
    )
    words: list[str | Path] = [
        "gencert",
        *CA,
        "-db-config",
        tmp_path / "db.json",
        "-label",
        "a label",
        "leaf.json",
    ]
    refused = ocspd(*words, cwd=material_of_ours)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("Traceback") == 0

    assert ocspd("db", "up", "-db-config", tmp_path / "db.json").returncode == 0
    made = certificate(ocspd(*words, cwd=material_of_ours))
    async with await open_certdb(config, SystemClock()) as db:
        row = await db.get_certificate(made.serial_number, aki_hex(made))
    assert row is not None
    assert x509.load_pem_x509_certificate(row.pem.encode()) == made
    assert (row.ca_label, row.common_name, row.sans) == ("a label", "leaf", ["leaf.example"])


def test_a_ca_is_made_again_from_its_key_or_renewed(material_of_ours: Path) -> None:
    old = x509.load_pem_x509_certificate((material_of_ours / "ca.pem").read_bytes())
    again = ocspd("gencert", "-initca", "-ca-key", "ca-key.pem", "ca.json", cwd=material_of_ours)
    assert list(result(again)) == ["cert", "csr"]
    renewed = ocspd("gencert", "-renewca", *CA, cwd=material_of_ours)
    assert list(result(renewed)) == ["cert"]
    for made in (certificate(again), certificate(renewed)):
        assert shape(made).key == shape(old).key
        assert shape(made).lifetime == shape(old).lifetime
        assert made.serial_number != old.serial_number


def test_gencsr_prints_the_key_file_as_it_is(material_of_ours: Path, tmp_path: Path) -> None:
    text = "# a comment\n" + (material_of_ours / "leaf-key.pem").read_text()
    (tmp_path / "k.pem").write_text(text)
    made = result(ocspd("gencsr", "-key", tmp_path / "k.pem", "leaf.json", cwd=material_of_ours))
    assert made["key"] == text
    again = result(ocspd("gencsr", "-key", tmp_path / "k.pem", "-cert", "ca.pem", cwd=material_of_ours))
    request = x509.load_pem_x509_csr(again["csr"].encode())
    assert request.subject.rfc4514_string() == "CN=ca"
    assert request.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_selfsign_ignores_its_host_name_and_warns(material_of_ours: Path) -> None:
    run = ocspd("selfsign", "ignored.example", "leaf.json", cwd=material_of_ours)
    made = certificate(run)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["leaf.example"]
    assert "Self-signed certificates are dangerous" in run.stderr
    assert list(json.loads(run.stdout)) == ["cert", "csr", "key"]


def test_info_ends_without_a_newline(material_of_ours: Path) -> None:
    run = ocspd("info", "-config", "config.json", *CA, "-profile", "client", cwd=material_of_ours)
    assert list(json.loads(run.stdout)) == ["certificate", "usages", "expiry"]
    assert json.loads(run.stdout)["expiry"] == "1h"
    assert run.stdout.endswith('"}')


def test_print_defaults_config_is_cfssls_with_profiles_for_an_intermediate_and_for_ocsp() -> None:
    theirs = subprocess.run([need("cfssl"), "print-defaults", "config"], capture_output=True, check=True)
    mine = json.loads(ocspd("print-defaults", "config").stdout)
    for name in ("intermediate", "ocsp"):
        del mine["signing"]["profiles"][name]
    assert mine == json.loads(theirs.stdout)


@pytest.mark.parametrize("program", ["ocspd", "cfssl"])
def test_the_default_profiles_make_a_chain_that_signs_ocsp_without_a_warning(
    tmp_path: Path, program: str
) -> None:
    (tmp_path / "config.json").write_text(ocspd("print-defaults", "config").stdout)

    def issue(name: str, *words: str) -> None:
        command = (need("cfssl"),) if program == "cfssl" else OCSPD
        made = subprocess.run(
            [*command, "gencert", *words, "-"],
            cwd=tmp_path,
            input=json.dumps({"CN": name, "key": {"algo": "ecdsa", "size": 256}}).encode(),
            capture_output=True,
            check=True,
        ).stdout
        assert ocspd("json", "-bare", name, cwd=tmp_path, stdin=made).returncode == 0

    issue("root", "-initca")
    for name, signer in (("intermediate", "root"), ("ocsp", "intermediate"), ("client", "intermediate")):
        files = ("-ca", f"{signer}.pem", "-ca-key", f"{signer}-key.pem", "-config", "config.json")
        issue(name, *files, "-profile", name)
    responder = ("-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem")
    result = ocspd("ocspsign", "-ca", "intermediate.pem", *responder, "-cert", "client.pem", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    own = ("-responder", "root.pem", "-responder-key", "root-key.pem")
    result = ocspd("ocspsign", "-ca", "root.pem", *own, "-cert", "intermediate.pem", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    own = ("-responder", "intermediate.pem", "-responder-key", "intermediate-key.pem")
    result = ocspd("ocspsign", "-ca", "intermediate.pem", *own, "-cert", "client.pem", cwd=tmp_path)
    assert result.returncode == 0
    assert "sign with a responder certificate instead" in result.stderr


@pytest.mark.parametrize("kind", ["csr", "list", "something"])
def test_print_defaults_prints_what_cfssl_prints(kind: str) -> None:
    theirs = subprocess.run(
        [need("cfssl"), "print-defaults", kind], capture_output=True, check=True, timeout=120
    )
    mine = ocspd("print-defaults", kind).stdout
    if kind == "csr":
        assert mine == theirs.stdout.decode()
    else:  # cfssl's list is in random order
        assert sorted(mine.splitlines()) == sorted(theirs.stdout.decode().splitlines())


def test_a_remote_cfssl_signs_and_describes_itself(material_of_ours: Path) -> None:
    with cfssl_serve(material_of_ours, *_absolute(material_of_ours)) as url:
        address = url.removeprefix("http://")
        signed = ocspd("sign", "-remote", address, "-profile", "client", "leaf.csr", cwd=material_of_ours)
        assert shape(certificate(signed)).lifetime.total_seconds() == 3600
        made = ocspd("gencert", "-remote", f"127.0.0.1:1,{address}", "leaf.json", cwd=material_of_ours)
        assert list(result(made)) == ["cert", "csr", "key"]
        info = ocspd("info", "-remote", address, "-profile", "client", cwd=material_of_ours)
        assert json.loads(info.stdout)["expiry"] == "1h"


def test_an_authenticated_remote_is_used_by_profile_and_a_wrong_key_is_told(
    material_of_ours: Path, tmp_path: Path
) -> None:
    with cfssl_serve(material_of_ours, *_absolute(material_of_ours)) as url:
        config = {
            "signing": {
                "default": {"expiry": "1h", "usages": ["signing"]},
                "profiles": {"far": {"auth_remote": {"remote": "r", "auth_key": "k"}}},
            },
            "remotes": {"r": url},
            "auth_keys": {"k": {"type": "standard", "key": AUTH_KEY}},
        }
        path = tmp_path / "client.json"
        path.write_text(json.dumps(config))
        sign: list[str | Path] = ["sign", "-config", path, "-profile", "far", "leaf.csr"]
        assert certificate(ocspd(*sign, cwd=material_of_ours))
        local = ocspd("sign", "-config", path, *CA, "leaf.csr", cwd=material_of_ours)
        assert certificate(local)
        unknown = ocspd("sign", "-config", path, *CA, "-profile", "nope", "leaf.csr", cwd=material_of_ours)
        assert json.loads(unknown.stderr)["code"] == 5400
        path.write_text(json.dumps(config).replace(AUTH_KEY, "00" * 16))
        refused = ocspd(*sign, cwd=material_of_ours)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "invalid token" in refused.stderr


def _absolute(directory: Path) -> list[str]:
    flags = {"-ca": "ca.pem", "-ca-key": "ca-key.pem", "-config": "config.json"}
    return [word for flag, name in flags.items() for word in (flag, str(directory / name))]


def test_a_misspelt_key_is_warned_of(material_of_ours: Path) -> None:
    run = ocspd("genkey", "-", cwd=material_of_ours, stdin='{"CN":"x","host":["a"]}')
    assert "ignoring unknown keys: host" in run.stderr
    assert run.returncode == 0


WRONG = [
    (["gencert", "leaf.json"], "need a CA certificate (provide one with -ca)"),
    (["gencert", "-ca", "ca.pem", "leaf.json"], "need a CA key (provide one with -ca-key)"),
    (["sign", "leaf.csr"], "need a CA certificate"),
    (["gencert", "-renewca"], "need a CA certificate"),
    (["gencert"], "not enough arguments"),
    (["genkey"], "not enough arguments"),
    (["sign"], "not enough arguments"),
    (["selfsign"], "not enough arguments"),
    (["print-defaults"], "not enough arguments"),
    (["genkey", "leaf.json", "more"], "unexpected argument 'more'"),
    (["genkey", "missing.json"], "missing.json: no such file"),
    (["genkey", "leaf.csr"], "leaf.csr: invalid character '-'"),
    (["gencsr", "leaf.json"], "-key"),
    (["gencsr", "-key", "leaf.csr", "leaf.json"], '{"code":2003,"message":"leaf.csr: '),
    (["gencert", "-ca", "ca.pem", "-ca-key", "leaf-key.pem", "leaf.json"], '{"code":1000,'),
    (
        ["gencert", "-ca", "ca-key.pem", "-ca-key", "ca-key.pem", "leaf.json"],
        '{"code":1003,"message":"ca-key.pem',
    ),
    (["gencert", "-ca", "x:ca.pem", "-ca-key", "ca-key.pem", "leaf.json"], "unknown prefix 'x'"),
    (["sign", *CA, "ca.pem"], '{"code":9300,"message":"not a csr"}'),
    (["sign", *CA, "leaf.json"], '{"code":9002,"message":"CSR Decode failed (it is JSON: '),
    (["sign", *CA, "-config", "leaf.json", "leaf.csr"], "signing"),
    (["sign", "-config", "missing.json", "leaf.csr"], "Failed to load config file"),
    (["gencert", "-remote", "127.0.0.1:1", "leaf.json"], '{"code":7400,'),
    (["info"], "Either -remote or -config must be given."),
    (["info", "-config", "config.json"], '{"code":2000,'),
    (["gencert", "-initca", "config.json"], '{"code":5300,"message":"missing subject information'),
    (["gencert", *CA, "-db-config", "leaf.json", "leaf.json"], '{"code":5200,"message":"leaf.json'),
]


@pytest.mark.parametrize(
    ("words", "text"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    material_of_ours: Path, words: list[str], text: str
) -> None:
    run = ocspd(*words, cwd=material_of_ours)
    assert (run.returncode, run.stdout) == (1, "")
    assert text in run.stderr.splitlines()[-1]
    assert [line for line in run.stderr.splitlines() if "[INFO]" not in line and "[WARNING]" not in line] == [
        run.stderr.splitlines()[-1]
    ]


@pytest.mark.parametrize(
    ("request_text", "text"),
    [
        ("", "standard input: unexpected end of JSON input"),
        ('{“CN”: "x"}', "replace it with a straight quote"),
        (
            '{"CN": 5}',
            "json: cannot unmarshal number into Go struct field CertificateRequest.CN of type string",
        ),
        ('{"CN":"x","ca":{}}', "ca section only permitted in initca"),
        ('{"CN":"x","key":{"algo":"rsa"}}', '{"code":2400,"message":"RSA key is too weak"}'),
        ('{"CN":"x","key":{"algo":"foo"}}', '{"code":2400,"message":"invalid algorithm"}'),
        ('{"hosts":["mü.de"]}', "cannot be encoded as an IA5String"),
    ],
)
def test_a_request_that_cannot_be_made_says_why(request_text: str, text: str) -> None:
    run = ocspd("genkey", "-", stdin=request_text)
    assert (run.returncode, run.stdout) == (1, "")
    assert text in run.stderr.splitlines()[-1]
