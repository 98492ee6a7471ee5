"""The web page of `ocspd serve`: what is sent, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.authority.chains import make
from tests.e2e.browser import browsing
from tests.e2e.test_serve import serve
from tests.tools import need

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

PAGES = ("/", "/bundle", "/scan")
FILES = (*PAGES, "/assets/ocspd.css", "/assets/ocspd.js")


def get(url: str, method: str = "GET") -> HTTPResponse:
    request = urllib.request.Request(url, method=method)
    reply: HTTPResponse = urllib.request.urlopen(request, timeout=120)
    return reply


def status_of(url: str, method: str = "GET") -> int:
    try:
        with get(url, method) as reply:
            return reply.status
    except urllib.error.HTTPError as err:
        with err:
            return err.code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = make("Root CA")
    inter = make("Inter CA", root)
    leaf = make("<img src=x onerror=alert(1)>", inter, ca=False, hosts=["leaf.example", "www.leaf.example"])
    for name, each in (("root", root), ("inter", inter), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_text(each.pem)
        (tmp_path / f"{name}-key.pem").write_text(each.key_pem)
    return tmp_path


FLAGS = ("-ca", "root.pem", "-ca-key", "root-key.pem", "-ca-bundle", "root.pem", "-int-bundle", "inter.pem")


def test_the_page_is_complete_and_loads_nothing_from_elsewhere(folder: Path) -> None:
    with serve(folder) as server:
        for path in FILES:
            with get(server.url + path) as reply, get(server.url + path, "HEAD") as head:
                text = reply.read().decode()
                assert reply.status == head.status == 200
                policy = reply.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
                assert "unsafe" not in policy
                assert "http" not in policy
                assert reply.headers["X-Content-Type-Options"] == "nosniff"
                assert reply.headers["X-Frame-Options"] == "DENY"
                assert head.headers["Content-Type"] == reply.headers["Content-Type"]
                assert head.read() == b""
            assert not re.search(r"https?://|url\(|@import|style=| on\w+=", text), path
            assert "innerHTML" not in text
            assert status_of(server.url + path, "POST") == 405
        for path in (
            "/index.html",
            "/assets/",
            "/assets",
            "/assets/other.js",
            "/assets/../ocspd.js",
            "/pages/",
        ):
            assert status_of(server.url + path) in {301, 404}
        with get(f"{server.url}/") as reply:
            linked = re.findall(r'(?:src|href)="(/[^"]*)"', reply.read().decode())
        assert set(linked) <= {*FILES, "/#signer"}


def test_the_page_can_be_switched_off(folder: Path) -> None:
    with serve(folder, "-disable", "scan,/") as server:
        assert [status_of(server.url + path) for path in FILES] == [404] * len(FILES)
        assert server.post("init_ca", {"CN": "x"})[0] == 200
        assert "[INFO] endpoint '/' is explicitly disabled" in server.log()


async def test_a_browser_builds_a_bundle_and_shows_the_signer(folder: Path) -> None:
    program = need("chromium")
    with serve(folder, *FLAGS, "-allow-private") as server:
        async with browsing(program) as page:
            await page.open(f"{server.url}/bundle")
            assert await page.run("document.title") == "Build a bundle - ocspd"
            shown = "document.querySelector('section[data-view]:not([hidden])')"
            assert await page.run(f"{shown}.dataset.view") == "bundle"

            # a certificate with a name that would be a script if it were put in as HTML
            leaf = json.dumps((folder / "leaf.pem").read_text())
            await page.run(f"document.getElementById('bundle-pem').value = {leaf}")
            await page.run(f"{shown}.querySelector('button').click()")
            await page.wait_for(f"{shown}.querySelector('.chain')")
            assert await page.run(f"{shown}.querySelectorAll('.chain > li').length") == 3
            text = await page.run(f"{shown}.querySelector('.result').textContent")
            assert "Trusted until" in text
            assert "256-bit ECDSA" in text
            headings = await page.run(f"[...{shown}.querySelectorAll('h3')].map((each) => each.textContent)")
            assert headings == [
                "<img src=x onerror=alert(1)>  to be sent first",
                "Inter CA  intermediate",
                "Root CA  root, not sent",
            ]
            assert await page.run("document.querySelectorAll('img').length") == 0
            await page.run(f"[...{shown}.querySelectorAll('.actions button')].at(-1).click()")

            # an error is what the server says, with its code
            await page.run("document.getElementById('bundle-pem').value = 'junk'")
            await page.run(f"{shown}.querySelector('form button').click()")
            await page.wait_for(f"{shown}.querySelector('.notice.bad')")
            told = await page.run(f"{shown}.querySelector('.notice.bad').textContent")
            assert told.startswith("Failed to decode certificate")
            assert told.endswith(" 1002")

            # the other tools are one click away, without loading the page again
            await page.run("document.querySelector('nav a[data-view=info]').click()")
            assert await page.run("location.hash") == "#signer"
            await page.run(f"{shown}.querySelector('button').click()")
            await page.wait_for(f"{shown}.querySelector('.certificate')")
            assert "8760h" in await page.run(f"{shown}.querySelector('.result').textContent")
            await page.run("document.querySelector('nav a[data-view=scan]').click()")
            await page.wait_for("document.querySelectorAll('#scan-family option').length > 1")
            await page.run(f"document.getElementById('scan-host').value = '127.0.0.1:{server.port}'")
            await page.run("document.getElementById('scan-family').value = 'PKI'")
            await page.run(f"{shown}.querySelector('button').click()")
            await page.wait_for(f"{shown}.querySelector('.family')")
            assert "ChainExpiration" in await page.run(f"{shown}.querySelector('.result').textContent")
            await page.run("history.back()")
            await page.wait_for(f"{shown}.dataset.view === 'info'")
            await page.run("history.back()")
            await page.wait_for(f"{shown}.dataset.view === 'bundle'")

            # no request left this server, and nothing was against the policy
            assert {url[: len(server.url)] for url in page.requests if not url.startswith("blob:")} == {
                server.url
            }
            unexpected = [text for text in page.problems if "Failed to load resource" not in text]
            assert unexpected == []


async def test_a_browser_is_asked_for_a_token_where_one_is_demanded(folder: Path) -> None:
    program = need("chromium")
    with serve(folder, *FLAGS, "-require-auth") as server:
        async with browsing(program) as page:
            await page.open(f"{server.url}/bundle")
            leaf = json.dumps((folder / "leaf.pem").read_text())
            await page.run(f"document.getElementById('bundle-pem').value = {leaf}")
            form = "document.querySelector('section[data-view]:not([hidden]) .notice form')"
            await page.run("document.querySelector('section[data-view]:not([hidden]) button').click()")
            await page.wait_for(form)
            await page.run(f"{form}.querySelector('input').value = 'wrong'")
            await page.run(f"{form}.dataset.seen = 'yes'")
            await page.run(f"{form}.querySelector('button').click()")
            await page.wait_for(f"{form} && !{form}.dataset.seen")
            told = "document.querySelector('section[data-view]:not([hidden]) .notice').textContent"
            assert "invalid token" in await page.run(told)
