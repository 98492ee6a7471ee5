"""The endpoints certadd, crl and gencrl in CFSSL's JSON."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509

from ocspd.authority.api.endpoints import Backend
from ocspd.clock import SystemClock
from ocspd.model import CertStatus
from ocspd.pki.certs import load_certificate, to_row
from tests.authority.api import make_backend, serving
from tests.authority.test_api import PREFIX, error_of, result_of, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ocspd.certdb.base import CertDB


@pytest.fixture
async def api(material: Path, tmp_path: Path) -> AsyncIterator[tuple[str, CertDB]]:
    async with with_database(material, tmp_path) as served:
        yield served


def request_for(material: Path) -> dict[str, Any]:
    pem = (material / "leaf.pem" if (material / "leaf.pem").exists() else material / "client.pem").read_text()
    row = to_row(load_certificate(pem.encode()), label="", issued_at=None)
    return {
        "serial_number": str(row.serial),
        "authority_key_identifier": row.aki,
        "status": "good",
        "pem": pem,
        "expiry": f"{row.expiry:%Y-%m-%dT%H:%M:%SZ}",
    }


async def test_certadd_inserts_the_row(material: Path, api: tuple[str, CertDB]) -> None:
    url, db = api
    request = request_for(material) | {
        "ca_label": "old CA",
        "status": "revoked",
        "reason": 4,
        "revoked_at": "2024-02-03T04:05:06.5+02:00",
        "issued_at": "2024-01-01T00:00:00Z",
        "metadata": {"a": [1]},
        "sans": ["a.example"],
        "common_name": "a",
    }
    assert await result_of(url, "certadd", request) == {}
    row = await db.get_certificate(int(request["serial_number"]), request["authority_key_identifier"])
    assert row is not None
    assert (row.status, row.reason, row.ca_label) == (CertStatus.REVOKED, 4, "old CA")
    assert row.revoked_at == datetime(2024, 2, 3, 2, 5, 6, 500_000, UTC)
    assert (row.issued_at, row.not_before) == (datetime(2024, 1, 1, tzinfo=UTC), None)
    assert (row.metadata, row.sans, row.common_name) == ({"a": [1]}, ["a.example"], "a")
    assert row.pem == request["pem"]
    assert await error_of(url, "certadd", request) == (
        400,
        11000,
        f"certificate {row.serial} of {row.aki} is already in the database",
    )


async def test_certadd_takes_the_key_identifier_in_upper_case_and_any_zone(
    material: Path, api: tuple[str, CertDB]
) -> None:
    url, db = api
    request = request_for(material)
    request["authority_key_identifier"] = request["authority_key_identifier"].upper()
    request["expiry"] = request["expiry"].replace("Z", "+00:00")
    assert await result_of(url, "certadd", request) == {}
    (row,) = await db.find_certificates(int(request["serial_number"]))
    assert row.aki == request["authority_key_identifier"].lower()
    assert (row.status, row.metadata, row.revoked_at) == (CertStatus.GOOD, {}, None)


ORDER: list[tuple[dict[str, Any], str]] = [
    ({"serial_number": ""}, "Serial number is required but not provided"),
    ({"authority_key_identifier": ""}, "Authority key identifier is required but not provided"),
    ({"status": "Good"}, "Invalid certificate status"),
    ({"status": "revoked", "revoked_at": None}, "Revoked certificate should specify when it was revoked"),
    (
        {"status": "revoked", "revoked_at": "2024-02-03T04:05:06Z", "reason": 7},
        "Invalid certificate status reason code",
    ),
    ({"pem": ""}, "The provided certificate is empty"),
    ({"expiry": "0001-01-01T00:00:00Z"}, "Expiry is required but not provided"),
    ({"pem": "junk"}, "Unable to parse PEM encoded certificates"),
    ({"serial_number": "x1"}, "Unable to parse serial key of request"),
    ({"serial_number": "1"}, "Serial key of request and certificate do not match"),
    ({"authority_key_identifier": "xyz"}, "Unable to decode authority key identifier"),
    (
        {"authority_key_identifier": "ab" * 20},
        "Authority key identifier of request and certificate do not match",
    ),
    ({"expiry": "2024-02-03T04:05:06Z"}, "Expiry of request and certificate do not match"),
]
"""CFSSL's checks in its order."""


@pytest.mark.parametrize("position", range(len(ORDER)))
async def test_certadd_checks_in_cfssls_order(material: Path, api: tuple[str, CertDB], position: int) -> None:
    url, db = api
    changes, text = ORDER[position]
    request = request_for(material) | changes
    assert await error_of(url, "certadd", request) == (400, 400, text)
    for also_wrong, _ in ORDER[position + 1 :]:  # which is not what is told
        request |= also_wrong
    assert await error_of(url, "certadd", request | changes) == (400, 400, text)
    assert await db.estimate_unexpired() == 0


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        {"serial_number": 7},
        {"reason": "1"},
        {"expiry": 7},
        {"expiry": ""},
        {"expiry": "2024-02-03"},
        {"revoked_at": "2024-13-03T00:00:00Z"},
        {"not_before": "2024-02-30T00:00:00Z"},
        {"issued_at": "9999-12-31T23:59:59-05:00"},
        {"status": "revoked", "revoked_at": "9999-12-31T23:59:59-05:00"},
        {"status": None, "pem": []},
    ],
)
async def test_certadd_refuses_other_json(material: Path, api: tuple[str, CertDB], body: Any) -> None:
    url, _ = api
    whole = body if isinstance(body, str) else request_for(material) | body
    assert await error_of(url, "certadd", whole) == (
        400,
        400,
        "Unable to parse certificate addition request",
    )


async def test_certadd_without_a_database_says_so(material: Path) -> None:
    async with serving(Backend(clock=SystemClock())) as url:
        status, code, text = await error_of(url, "certadd", request_for(material))
    assert (status, code) == (400, 11000)
    assert "-db-config" in text


# -- crl and gencrl ------------------------------------------------------------------------------


async def crl_at(url: str, query: str = "") -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}{PREFIX}crl{query}") as answer,
    ):
        return answer.status, await answer.json(content_type=None)


def read(encoded: str) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(base64.b64decode(encoded, validate=True))


async def test_crl_lists_what_was_revoked_just_before(material: Path, api: tuple[str, CertDB]) -> None:
    url, db = api
    row = to_row(load_certificate((material / "client.pem").read_bytes()), label="", issued_at=None)
    ca = load_certificate((material / "ca.pem").read_bytes())
    aki = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    await db.insert_certificate(replace(row, aki=aki))
    status, body = await crl_at(url)
    assert (status, list(read(body["result"]))) == (200, [])
    await result_of(url, "revoke", {"serial": str(row.serial), "authority_key_id": aki, "reason": "1"})
    status, body = await crl_at(url)
    assert (status, [one.serial_number for one in read(body["result"])]) == (200, [row.serial])
    found = read(body["result"])
    assert found.next_update_utc is not None
    assert found.next_update_utc - found.last_update_utc == timedelta(days=7)
    status, body = await crl_at(url, "?expiry=119h")
    found = read(body["result"])
    assert found.next_update_utc is not None
    assert found.next_update_utc - found.last_update_utc == timedelta(hours=119)


@pytest.mark.parametrize(
    ("expiry", "status", "code", "text"),
    [
        ("100", 500, 0, 'time: missing unit in duration "100"'),
        ("1d", 500, 0, 'time: invalid duration "1d"'),
        ("-1h", 400, 400, "expiry -1h: use 1s to 87600h"),
        ("0", 400, 400, "expiry 0: use 1s to 87600h"),
    ],
)
async def test_crl_refuses_other_expiries(
    api: tuple[str, CertDB], expiry: str, status: int, code: int, text: str
) -> None:
    found, body = await crl_at(api[0], f"?expiry={expiry}")
    assert (found, body["errors"]) == (status, [{"code": code, "message": text}])


def gencrl_request(material: Path) -> dict[str, Any]:
    return {
        "certificate": (material / "ca.pem").read_text(),
        "issuingKey": (material / "ca-key.pem").read_text(),
        "serialNumber": ["1", "2"],
    }


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, 7 * 86400),
        ({"expireTime": ""}, 7 * 86400),
        ({"expireTime": " 60 "}, 60),
        ({"expireTime": "0x10"}, 16),
    ],
)
async def test_gencrl_signs_a_list(material: Path, changes: dict[str, Any], valid: int) -> None:
    async with serving(make_backend(material)) as url:
        found = read(await result_of(url, "gencrl", gencrl_request(material) | changes))  # type: ignore[arg-type]
    assert [one.serial_number for one in found] == [1, 2]
    assert found.next_update_utc is not None
    assert found.next_update_utc - found.last_update_utc == timedelta(seconds=valid)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"certificate": ""}, (400, 400, "malformed certificate")),
        ({"certificate": "junk"}, (400, 400, "malformed certificate")),
        ({"issuingKey": "junk"}, (400, 400, "malformed Private Key")),
        ({"expireTime": "7d"}, (500, 0, 'strconv.ParseInt: parsing "7d": invalid syntax')),
        (
            {"expireTime": 60},
            (
                500,
                0,
                "json: cannot unmarshal number into Go struct field jsonCRLRequest.expireTime of type string",
            ),
        ),
        ({"serialNumber": ["1", "x"]}, (400, 1300, "serialNumber 2: 'x' is not a serial number in decimal")),
        ({"serialNumber": ["-1"]}, (400, 1300, "serialNumber 1: '-1' is not a serial number in decimal")),
    ],
)
async def test_gencrl_refuses(material: Path, changes: dict[str, Any], outcome: tuple[int, int, str]) -> None:
    async with serving(make_backend(material)) as url:
        assert await error_of(url, "gencrl", gencrl_request(material) | changes) == outcome
