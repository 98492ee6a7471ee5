"""CFSSL's JSON response: the one place that turns results and errors into HTTP replies.

    {"success":bool,"result":any,"errors":[{"code","message"}],"messages":[{"code","message"}]}

The four keys are always there, in this order. A success is `application/json`; a failure is the same
JSON labelled `text/plain; charset=utf-8` with `X-Content-Type-Options: nosniff`, because CFSSL's
clients see exactly that. Every body ends in a newline. Errors map in `failure_of`:

    HTTPStatusError (method, bad request)    its status      code = the status
    CodedError 12000 (the audit log)         503             code = 12000
    CodedError                               400             code = CFSSL's number
    anything else                            500             code 0

An error raised on purpose sends its text. An unexpected one reveals nothing internal, and neither does one
about the server's own files and database, whose names do not concern a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ocspd import wire
from ocspd.errors import Code, CodedError, ConfigError, IndexFileError, OCSPDError
from ocspd.shown import masked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLAIN_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
JSON = {"Content-Type": "application/json"}
DATABASE_FAILED = "the certificate database is unavailable, see the server's log"
AUDIT_FAILED = "the audit log cannot be written, see the server's log"
INTERNAL = "internal error, see the server's log"


class HTTPStatusError(OCSPDError):
    """An error with an HTTP status of its own: CFSSL's bad request and bad method errors."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        code: int | None = None,
    ) -> None:
        """`code` is the number in the JSON if that is not the status."""
        super().__init__(message)
        self.status = status
        self.code = status.value if code is None else code
        self.message = message
        self.headers = dict(headers or {})


class BadRequest(HTTPStatusError):
    """A request that cannot be understood or is incomplete: 400 with code 400."""

    def __init__(self, message: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, message)


def method_not_allowed(method: str, allowed: str) -> HTTPStatusError:
    """Return the error for a method an endpoint does not have (RFC 9110 §15.5.6 asks for Allow)."""
    return HTTPStatusError(
        HTTPStatus.METHOD_NOT_ALLOWED, f'Method is not allowed:"{method}"', headers={"Allow": allowed}
    )


@dataclass(frozen=True, slots=True)
class Message:
    """One member of `errors` or `messages`."""

    code: int
    text: str

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object, keys in wire order."""
        return {"code": self.code, "message": self.text}


@dataclass(frozen=True, slots=True)
class Success:
    """The outcome of an endpoint: a result and, rarely, warnings for the client."""

    result: Any
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The reply to an error."""

    status: HTTPStatus
    code: int
    text: str


def failure_of(error: BaseException) -> Failure:
    """Map an error raised by an endpoint to its reply (the table in the module's docstring)."""
    match error:
        case HTTPStatusError():
            return Failure(error.status, error.code, error.message)
        case CodedError(code=Code.AUDIT_FAILED):
            return Failure(HTTPStatus.SERVICE_UNAVAILABLE, int(error.code), AUDIT_FAILED)
        case CodedError(code=Code.STORE_FAILED | Code.STORE_INSERT_FAILED):
            return Failure(HTTPStatus.BAD_REQUEST, int(error.code), DATABASE_FAILED)
        case CodedError():
            return Failure(HTTPStatus.BAD_REQUEST, int(error.code), masked(error.message))
        case ConfigError() | IndexFileError():
            return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, 0, INTERNAL)
        case OCSPDError():
            return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, 0, masked(str(error)))
        case _:
            return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, 0, INTERNAL)


def success_body(result: Any, messages: Sequence[Message] = ()) -> bytes:
    """Write the body of a success."""
    return _body(success=True, result=result, errors=[], messages=[item.as_json() for item in messages])


def failure_body(code: int, text: str) -> bytes:
    """Write the body of a failure."""
    return _body(success=False, result=None, errors=[Message(code, text).as_json()], messages=[])


def _body(*, success: bool, result: Any, errors: list[Any], messages: list[Any]) -> bytes:
    api_response = {"success": success, "result": result, "errors": errors, "messages": messages}
    text = wire.dumps(api_response) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate in a client's JSON string has no UTF-8 form; Go writes U+FFFD in its place.
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def success_response(success: Success) -> web.Response:
    """Return the HTTP reply for a success."""
    return web.Response(body=success_body(success.result, success.messages), headers=JSON)


def failure_response(error: BaseException) -> web.Response:
    """Return the HTTP reply for an error."""
    failure = failure_of(error)
    extra = error.headers if isinstance(error, HTTPStatusError) else {}
    return web.Response(
        status=failure.status,
        body=failure_body(failure.code, failure.text),
        headers={**PLAIN_TEXT, **extra},
    )


def plain_response(status: HTTPStatus, text: str) -> web.Response:
    """Return a reply like Go's http.Error: one line of text, no JSON."""
    return web.Response(status=status, body=f"{text}\n".encode(), headers=PLAIN_TEXT)


def not_found() -> web.Response:
    """Return the reply for unknown paths and disabled endpoints, which are the same in CFSSL."""
    return plain_response(HTTPStatus.NOT_FOUND, "404 page not found")


def access_line(remote: str, method: str, target: str, status: int) -> str:
    """Return CFSSL's access log line; `status` is the HTTP status, for errors, too."""
    return f'{remote} - "{method} {target}" {status}'
