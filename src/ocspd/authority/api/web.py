"""The web page at `/`, `/bundle` and `/scan`: forms over the API, for people.

It is one page with a style sheet and a script, in `pages/`, all from this server: it works without the
Internet, and its Content-Security-Policy lets it load and call nothing else. The files are read when the
endpoints are made, not for each request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ocspd.authority.api.call import Document, Endpoint

if TYPE_CHECKING:
    from ocspd.authority.api.call import Call, Run

_FOLDER = Path(__file__).with_name("pages")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/bundle": ("index.html", "text/html; charset=utf-8"),
    "/scan": ("index.html", "text/html; charset=utf-8"),
    "/assets/ocspd.css": ("ocspd.css", "text/css; charset=utf-8"),
    "/assets/ocspd.js": ("ocspd.js", "text/javascript; charset=utf-8"),
}
"""Path: file and content type. CFSSL's page is at the same three paths."""


def page_endpoints() -> dict[str, Endpoint]:
    """Return the endpoints of the page by path."""
    found = {}
    for path, (name, content_type) in _FILES.items():
        document = Document(
            body=_FOLDER.joinpath(name).read_bytes(), content_type=content_type, headers=_HEADERS
        )
        found[path] = Endpoint("GET", _serve(document), head=True)
    return found


def _serve(document: Document) -> Run:
    async def run(_call: Call) -> Document:
        return document

    return run
