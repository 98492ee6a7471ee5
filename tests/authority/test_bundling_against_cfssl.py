"""The endpoint `bundle` beside that of Debian's `cfssl serve`, whose `sign` has no bundles yet."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.authority.cfssl import cfssl_serve
from tests.authority.chains import NOW, YEAR, make, rsa_key
from tests.e2e.test_serve import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT, OLD = make("Root CA"), make("Old Root", end=NOW + 30 * YEAR)
INTER = make("Inter CA", ROOT)
CROSS = make("Inter CA", OLD, key=INTER.key)
LEAF = make("leaf.example", INTER, ca=False, hosts=["leaf.example", "192.0.2.1"], ocsp=["http://127.0.0.1:1"])
RSA_ROOT = make("RSA Root", key=rsa_key())
RSA_LEAF = make("rsa", RSA_ROOT, ca=False, key=rsa_key())
GONE = make("gone", INTER, ca=False, end=NOW - YEAR / 2)
FLAGS = ("-ca", "ca.pem", "-ca-key", "ca-key.pem", "-ca-bundle", "roots.pem", "-int-bundle", "ints.pem")

REQUESTS: dict[str, Any] = {
    "leaf": {"certificate": LEAF.pem},
    "with its key": {"certificate": LEAF.pem, "private_key": LEAF.key_pem},
    "optimal": {"certificate": LEAF.pem, "flavor": "optimal"},
    "force": {"certificate": LEAF.pem + INTER.pem, "flavor": "force"},
    "force without a chain": {"certificate": LEAF.pem + ROOT.pem, "flavor": "force"},
    "no flavor": {"certificate": LEAF.pem, "flavor": ""},
    "unknown flavor": {"certificate": LEAF.pem, "flavor": "x"},
    "RSA": {"certificate": RSA_LEAF.pem, "private_key": RSA_LEAF.key_pem},
    "given chain": {"certificate": LEAF.pem + INTER.pem},
    "right host": {"certificate": LEAF.pem, "domain": "leaf.example", "ip": "192.0.2.1"},
    "wrong host": {"certificate": LEAF.pem, "domain": "other.example"},
    "wrong address": {"certificate": LEAF.pem, "ip": "192.0.2.2"},
    "wrong key": {"certificate": LEAF.pem, "private_key": ROOT.key_pem},
    "bad key": {"certificate": LEAF.pem, "private_key": "junk"},
    "bad certificate": {"certificate": "junk"},
    "empty certificate": {"certificate": ""},
    "expired": {"certificate": GONE.pem},
    "self-signed": {"certificate": ROOT.pem},
    "unknown authority": {"certificate": make("x", make("y"), ca=False).pem},
    "nobody there": {"domain": "127.0.0.1"},
    "nothing": {},
    "null": None,
    "list": [],
    "number": {"certificate": 1},
}
SAME_MESSAGE = {1100, 1200, 1220}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URLs of CFSSL's server and ours, over the same files."""
    folder: Path = tmp_path_factory.mktemp("servers")
    (folder / "ca.pem").write_text(INTER.pem)
    (folder / "ca-key.pem").write_text(INTER.key_pem)
    (folder / "roots.pem").write_text(ROOT.pem + OLD.pem + RSA_ROOT.pem)
    (folder / "ints.pem").write_text(INTER.pem + CROSS.pem)
    flags = [f"{folder}/{word}" if word.endswith(".pem") else word for word in FLAGS]
    with cfssl_serve(folder, *flags) as theirs, serve(folder, *flags, "-allow-private") as ours:
        yield theirs, ours.url


def post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/api/v1/cfssl/bundle", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.load(err)


def comparable(bundle: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in bundle.items() if key != "leaf_expires"},  # not in 1.2.0
        "hostnames": sorted(bundle["hostnames"]),
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_replies_are_those_of_cfssl(servers: tuple[str, str], name: str) -> None:
    (status, theirs), (our_status, ours) = (post(url, REQUESTS[name]) for url in servers)
    assert (our_status, ours["success"], list(ours)) == (status, theirs["success"], list(theirs))
    if not theirs["success"]:
        (error,), (expected,) = ours["errors"], theirs["errors"]
        assert error["code"] == expected["code"]
        if expected["code"] in SAME_MESSAGE or status == 500:
            assert error["message"] == expected["message"]
        return
    assert ours["messages"] == theirs["messages"]
    assert list(ours["result"]) == sorted(ours["result"])
    assert comparable(ours["result"]) == comparable(theirs["result"])
