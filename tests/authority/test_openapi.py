"""The OpenAPI document describes the endpoints that there are."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import openapi_spec_validator
import pytest

from ocspd.authority.api import openapi
from ocspd.authority.api.call import Call, Document, Endpoint
from ocspd.authority.api.endpoints import build_endpoints
from tests.authority.api import make_backend, serving

if TYPE_CHECKING:
    from pathlib import Path


class Published:
    """As much of the CRLs of a CA as the paths of its distribution points need."""

    delta = None

    def __init__(self, signer: object) -> None:
        self.signer = signer


@pytest.fixture
def endpoints(material: Path) -> dict[str, Endpoint]:
    """Every endpoint but the pages; what they work with is never asked for anything."""
    backend = make_backend(material, db=object())  # type: ignore[arg-type]
    backend = replace(backend, crls=Published(backend.crl_signer), bundler=object())  # type: ignore[arg-type]
    return build_endpoints(backend, ["/"])


def test_every_endpoint_is_described_with_its_method(endpoints: dict[str, Endpoint]) -> None:
    del endpoints[openapi.PATH]
    for path, endpoint in endpoints.items():
        operation = openapi.operation_of(path)
        assert operation is not None, f"{path} has no description in authority/api/openapi.py"
        assert operation.method == endpoint.method, path
    used = [openapi.operation_of(path) for path in endpoints]
    assert [path for path, operation in openapi.OPERATIONS.items() if operation not in used] == []


def test_what_is_disabled_is_not_described(material: Path) -> None:
    found = build_endpoints(make_backend(material), ["sign", "revoke"])
    paths = openapi.document(found)["paths"]
    assert "/api/v1/cfssl/authsign" in paths
    assert {"/api/v1/cfssl/sign", "/api/v1/cfssl/revoke"} & set(paths) == set()
    assert openapi.PATH not in build_endpoints(make_backend(material), ["openapi.json"])


async def test_the_document_is_valid_openapi_and_what_is_served(endpoints: dict[str, Endpoint]) -> None:
    served = await endpoints[openapi.PATH].run(Call())
    assert isinstance(served, Document)
    document: dict[str, Any] = json.loads(served.body)
    openapi_spec_validator.validate(document)
    assert set(document["paths"]) == {
        path.replace("/*", "/{name}") for path in endpoints if path != openapi.PATH
    }
    assert document["paths"]["/api/v1/cfssl/sign"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]["required"] == ["certificate_request"]


async def test_clients_find_it_beside_the_api(material: Path) -> None:
    async with serving(make_backend(material)) as url:
        import asyncio

        def get() -> tuple[int, str, Any]:
            with urllib.request.urlopen(f"{url}/api/v1/openapi.json", timeout=60) as reply:
                return reply.status, reply.headers["Content-Type"], json.load(reply)

        status, kind, document = await asyncio.to_thread(get)
    assert (status, kind, document["openapi"]) == (200, "application/json", "3.1.0")
