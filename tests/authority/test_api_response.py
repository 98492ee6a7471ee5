from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from ocspd.authority.api.api_response import (
    BadRequest,
    Message,
    Success,
    access_line,
    failure_response,
    method_not_allowed,
    not_found,
    success_body,
    success_response,
)
from ocspd.errors import Code, CodedError, ConfigError


def test_success_has_the_four_keys_in_order_and_a_newline() -> None:
    assert success_body({"healthy": True}) == (
        b'{"success":true,"result":{"healthy":true},"errors":[],"messages":[]}\n'
    )


def test_html_relevant_characters_are_escaped_as_go_does() -> None:
    assert b'"\\u003ca\\u0026b\\u003e"' in success_body("<a&b>")


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert json.loads(success_body("a\ud800"))["result"].startswith("a\ufffd")


def test_warnings_go_to_messages() -> None:
    body = json.loads(success_body({}, [Message(5300, "careful")]))
    assert body["messages"] == [{"code": 5300, "message": "careful"}]
    assert body["errors"] == []


def test_success_is_json_and_failure_is_labelled_plain_text() -> None:
    good = success_response(Success({}))
    assert (good.status, good.headers["Content-Type"]) == (200, "application/json")
    bad = failure_response(BadRequest("no"))
    assert bad.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert bad.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("error", "status", "code", "text"),
    [
        (BadRequest("why"), 400, 400, "why"),
        (method_not_allowed("GET", "POST"), 405, 405, 'Method is not allowed:"GET"'),
        (CodedError(Code.CSR_DECODE_FAILED, "CSR Decode failed"), 400, 9002, "CSR Decode failed"),
        (ConfigError("x"), 500, 0, "internal error, see the server's log"),
    ],
)
def test_errors_map_as_cfssl_maps_them(error: Exception, status: int, code: int, text: str) -> None:
    response = failure_response(error)
    assert response.status == status
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "success": False,
        "result": None,
        "errors": [{"code": code, "message": text}],
        "messages": [],
    }
    assert response.body.endswith(b"\n")


def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    response = failure_response(KeyError("/secret/path"))
    assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body


def test_method_not_allowed_names_the_allowed_method() -> None:
    assert failure_response(method_not_allowed("PUT", "POST")).headers["Allow"] == "POST"


def test_unknown_paths_get_gos_plain_text() -> None:
    response = not_found()
    assert (response.status, response.body) == (404, b"404 page not found\n")


def test_access_line_has_cfssls_form() -> None:
    assert access_line("127.0.0.1:9", "POST", "/x", 400) == '127.0.0.1:9 - "POST /x" 400'
