from __future__ import annotations

import logging

import pytest

from ocspd.authority.multiroot_config import RootFiles, parse_roots
from ocspd.errors import ConfigError

ROOT = "private = file://a-key.pem\ncertificate = a.pem\nconfig = a.json\n"


def roots(text: str) -> dict[str, RootFiles]:
    return parse_roots(text.encode(), "roots.conf")


def one(text: str) -> RootFiles:
    (found,) = roots(f"[ a ]\n{ROOT}{text}").values()
    return found


def test_each_section_is_a_root_under_its_label() -> None:
    found = roots(f"# comment\n\n[ a ]\n{ROOT}\n\t[b_2]\t\r\n{ROOT}dbconfig = 'db.json'\n")
    assert list(found) == ["a", "b_2"]
    assert found["a"] == RootFiles(
        label="a", private="file:a-key.pem", certificate="a.pem", config="a.json", nets=None, db_config=""
    )
    assert found["b_2"].db_config == "db.json"


def test_keys_before_any_section_belong_to_the_section_default() -> None:
    assert list(roots(ROOT)) == ["default"]


def test_of_one_key_the_last_counts_and_a_section_may_be_continued() -> None:
    found = roots(f"[a]\n{ROOT}[b]\n{ROOT}[a]\ncertificate=\"second.pem'\n")
    assert (found["a"].certificate, found["b"].certificate) == ("second.pem", "a.pem")


@pytest.mark.parametrize(
    ("spec", "private"),
    [
        ("file:///etc/a.pem", "file:/etc/a.pem"),
        ("file://a.pem", "file:a.pem"),
        ("file://keys/a.pem", "file:keys/a.pem"),
        ("file://../Keys/a.pem", "file:../Keys/a.pem"),
        ("file:a.pem", "file:a.pem"),
        ("file:///with%20space.pem", "file:/with space.pem"),
        ("pkcs11:token=ca", "pkcs11:token=ca"),
    ],
)
def test_a_private_key_is_named_by_a_url(spec: str, private: str) -> None:
    assert one(f"private = {spec}").private == private


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "roots.conf: no CA: write a section"),
        ("# only a comment\n", "no CA"),
        ("[a]\n", r"\[a\]: root is missing private key spec: write private = file://PATH"),
        ("[a]\nprivate = file://x\n", "missing certificate path"),
        ("[a]\nprivate = file://x\ncertificate = y\n", "missing configuration file path"),
        (f"[a-b]\n{ROOT}", "line 1 is neither"),
        (f"[a]\n{ROOT} # not in the first column\n", "line 5 is neither"),
        ("[a]\nprivate\n", "line 2 is neither"),
        (f"[a]\n{ROOT}private = http://x\n", "unsupported private key scheme"),
        (f"[a]\n{ROOT}private = a-key.pem\n", "write private = file://PATH"),
        (
            f"[a]\n{ROOT}private = file://[key].pem\n",
            r"\[a\]: private is not a URL: write private = file://PATH",
        ),
        (f"[a]\n{ROOT}private = rofile://x\n", "Red October"),
        (f"[a]\n{ROOT}nets = 10.0.0.0\n", "'10.0.0.0' is not a network such as"),
        (f"[a]\n{ROOT}nets = 10.0.0.0/8,\n", "'' is not a network"),
        (f"[a]\n{ROOT}nets = 10.0.0.0/33\n", "is not a network"),
        (f"[a]\n{ROOT}net = 10.0.0.0/8\n", "unknown key net: did you mean nets"),
        (f"[a]\n{ROOT}Nets = 10.0.0.0/8\n", "unknown key Nets: did you mean nets"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        roots(text)


def test_other_unknown_keys_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ocspd"):
        one("comment = hello\n")
    assert "[a]: ignoring unknown key comment" in caplog.text


@pytest.mark.parametrize(
    ("nets", "address", "permitted"),
    [
        ("", "203.0.113.9", True),
        ("10.0.0.0/8, 2001:db8::/32", "10.1.2.3", True),
        ("10.0.0.0/8, 2001:db8::/32", "11.1.2.3", False),
        ("10.0.0.0/8, 2001:db8::/32", "2001:db8::1", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("::/0", "10.1.2.3", False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "-", False),
    ],
)
def test_nets_say_who_may_use_a_root(nets: str, address: str, *, permitted: bool) -> None:
    assert one(f"nets = {nets}").permits(address) is permitted
