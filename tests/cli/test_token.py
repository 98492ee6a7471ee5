from __future__ import annotations

import hashlib
import json
import re

import pytest

from tests.binary import ocspd


def test_a_token_is_printed_once_with_the_line_for_the_configuration() -> None:
    run = ocspd("token", "new", "deploy <1>")
    assert (run.returncode, run.stderr) == (0, "")
    first, second = run.stdout.splitlines()
    found = re.fullmatch(r"token: (ocspd_[A-Za-z0-9_-]{43})", first)
    assert found is not None
    line = json.loads("{" + second.partition("-config: ")[2] + "}")
    assert line == {
        "deploy <1>": {"token": "sha256:" + hashlib.sha256(found[1].encode()).hexdigest(), "issue": []}
    }
    assert ocspd("token", "new", "deploy <1>").stdout != run.stdout


@pytest.mark.parametrize("words", [(), ("a", "b"), ("",), ("a\nb",), ("x" * 61,)])
def test_a_name_that_cannot_be_used_is_refused(words: tuple[str, ...]) -> None:
    run = ocspd("token", "new", *words)
    assert (run.returncode, run.stdout) == (2, "")
