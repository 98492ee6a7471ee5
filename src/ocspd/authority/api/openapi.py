"""The OpenAPI description of the API, served at `/api/v1/openapi.json`: one entry for each endpoint.

An endpoint without an entry, or an entry with another method than its endpoint has, fails a test. What is
served describes the endpoints that this server has enabled. The schemas say what a client should send; as
CFSSL, the server reads keys in any case, ignores unknown ones, and takes null for absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ocspd import __version__, wire
from ocspd.authority.api.api_response import JSON
from ocspd.authority.api.call import Document, Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.authority.api.call import Call

NAME = "openapi.json"
PATH = f"/api/v1/{NAME}"

Schema = dict[str, Any]


def _string(description: str = "", **more: Any) -> Schema:
    return {"type": ["string", "null"], **_described(description), **more}


def _required(description: str, **more: Any) -> Schema:
    return {"type": "string", "minLength": 1, **_described(description), **more}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", **_described(description), **more}


def _integer(description: str = "", **more: Any) -> Schema:
    return {"type": ["integer", "null"], **_described(description), **more}


def _boolean(description: str = "") -> Schema:
    return {"type": ["boolean", "null"], **_described(description)}


def _list(items: Schema, description: str = "") -> Schema:
    return {"type": ["array", "null"], "items": items, **_described(description)}


def _object(description: str = "", /, *required: str, **properties: Schema) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **_described(description), "properties": properties, **needed}


def _maybe(schema: Schema) -> Schema:
    return {**schema, "type": ["object", "null"]}


def _described(text: str) -> Schema:
    return {"description": text} if text else {}


PEM = {"type": "string", "pattern": "^-----BEGIN "}
SUMS = _object(
    "Digests of the DER, in upper-case hex.",
    **{"md5": {"type": "string"}, "sha-1": {"type": "string"}, "sha-256": {"type": "string"}},
)
BUNDLE = _object(
    "A chain of certificates with what is known about it.",
    "bundle",
    "crt",
    "root",
    "status",
    bundle={"type": "string"},
    crt={"type": "string"},
    key={"type": "string"},
    key_size={"type": "integer"},
    key_type={"type": "string"},
    root={"type": "string"},
    hostnames={"type": ["array", "null"], "items": {"type": "string"}},
    ocsp={"type": ["array", "null"], "items": {"type": "string"}},
    status={"type": "object"},
)
NAME_ENTRY = _maybe(
    _object(
        "",
        C=_string("country"),
        ST=_string("state or province"),
        L=_string("locality"),
        O=_string("organization"),
        OU=_string("organizational unit"),
        E=_string("e-mail address"),
        OID={"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
        SerialNumber=_string("read, and ignored as by CFSSL"),
    )
)
SUBJECT = _maybe(
    _object(
        "Overrides parts of the subject in the CSR.",
        CN=_string(),
        names=_list(NAME_ENTRY),
        SerialNumber=_string("the attribute, not the serial number of the certificate"),
    )
)
KEY = _maybe(
    _object(
        "The key to generate: ecdsa of 256, 384 or 521 bits, rsa of 2048 to 8192 bits, or ed25519.",
        algo=_string(examples=["ecdsa", "rsa", "ed25519"]),
        size=_integer("in bits", examples=[256, 384, 2048]),
    )
)
CSR_FIELDS: dict[str, Schema] = {
    "CN": _string("common name"),
    "hosts": _list(_string(), "host names, IP addresses, e-mail addresses and URIs"),
    "names": _list(NAME_ENTRY),
    "key": KEY,
    "serialnumber": _string("the attribute of the subject"),
    "delegation_enabled": _boolean("whether to request DelegationUsage (RFC 9345)"),
    "extensions": _list(
        _object(
            "",
            "Id",
            Id={"type": "array", "items": {"type": "integer"}, "examples": [[1, 2, 3, 4]]},
            Critical=_boolean(),
            Value=_string("base64 of the DER of the value"),
        )
    ),
    "crl_url": _string("the CRL distribution point of a new CA"),
}
CA_FIELDS = _maybe(
    _object(
        "The properties of a new CA.",
        expiry=_string("how long it is valid", examples=["43800h"]),
        backdate=_string("how long ago it began", examples=["5m"]),
        pathlen=_integer(),
        pathlenzero=_boolean("whether a pathlen of 0 is meant"),
    )
)
SIGN_FIELDS: dict[str, Schema] = {
    "certificate_request": _required("the CSR in PEM"),
    "hosts": _list(_string(), "replaces the names in the CSR; an empty list removes them"),
    "hostname": _string("a comma list that replaces `hosts`"),
    "subject": SUBJECT,
    "profile": _string("the name of a signing profile; empty for the default one"),
    "label": _string("stored with the certificate"),
    "serial": _integer("used only if the profile has ClientProvidesSerialNumbers"),
    "bundle": _boolean("whether the result is to contain a bundle"),
    "crl_override": _string("the URL of the CRL in the certificate, in place of the profile's"),
}
SIGNED = _object("", "certificate", certificate=PEM, bundle=BUNDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one endpoint takes and returns.

    `request` describes the JSON of the body, `result` the member `result` of the reply. An endpoint that
    replies with something else than CFSSL's JSON has `content`: its media type.
    """

    method: str
    summary: str
    description: str = ""
    request: Schema | None = None
    parameters: tuple[Schema, ...] = ()
    result: Schema = field(default_factory=dict)
    content: str = ""


_CERTIFICATE_TEXTS = (
    "serial_number",
    "not_before",
    "not_after",
    "sigalg",
    "authority_key_id",
    "subject_key_id",
    "pem",
)
_SCANNED = _object(
    "What a scanner found; the output depends on the scanner.",
    "grade",
    grade={"enum": ["Good", "Warning", "Bad", "Skipped"]},
    output={},
    error={"type": "string"},
)


def _query(name: str, description: str, *, required: bool = False, **schema: Any) -> Schema:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
    }


_ONCE: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the request, so that it may be sent again: for a day it is answered with the same "
    "certificate. Another request with the same key is 422. Needs a database.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


OPERATIONS: dict[str, Operation] = {
    f"{wire.API_PREFIX}{name}": operation
    for name, operation in {
        "sign": Operation(
            method="POST",
            summary="Sign a CSR",
            description="Profiles with an `auth_key` are refused here: use authsign.",
            request=_object("", "certificate_request", **SIGN_FIELDS),
            parameters=(_ONCE,),
            result=SIGNED,
        ),
        "authsign": Operation(
            method="POST",
            summary="Sign a CSR for a client that has the key of the profile",
            request=_object(
                "",
                "token",
                "request",
                token=_required("base64 of the HMAC-SHA256 over the bytes of the request"),
                request=_required("base64 of the JSON of a sign request"),
                timestamp=_integer("read, and not used, as by CFSSL"),
                remote_address=_string("base64; read, and not used, as by CFSSL"),
            ),
            parameters=(_ONCE,),
            result=SIGNED,
        ),
        "info": Operation(
            method="POST",
            summary="Describe the signer and a profile",
            request=_maybe(_object("", label=_string(), profile=_string())),
            result=_object(
                "",
                "certificate",
                "usages",
                "expiry",
                certificate={"type": "string"},
                usages={"type": ["array", "null"], "items": {"type": "string"}},
                expiry={"type": "string"},
            ),
        ),
        "newkey": Operation(
            method="POST",
            summary="Generate a private key and a CSR",
            request=_maybe(_object("", **CSR_FIELDS)),
            result=_object(
                "",
                "private_key",
                "certificate_request",
                "sums",
                private_key=PEM,
                certificate_request=PEM,
                sums=_object("", "certificate_request", certificate_request=SUMS),
            ),
        ),
        "newcert": Operation(
            method="POST",
            summary="Generate a private key and a certificate for it",
            description="Profiles with an `auth_key` are refused: there is no way to present a token here.",
            request=_maybe(
                _object(
                    "",
                    request=_object("What the certificate is to contain; not null.", **CSR_FIELDS),
                    profile=_string(),
                    label=_string(),
                    bundle=_boolean(),
                )
            ),
            parameters=(_ONCE,),
            result=_object(
                "",
                "certificate",
                "certificate_request",
                "private_key",
                "sums",
                certificate=PEM,
                certificate_request=PEM,
                private_key=PEM,
                sums=_object("", certificate=SUMS, certificate_request=SUMS),
                bundle=BUNDLE,
            ),
        ),
        "init_ca": Operation(
            method="POST",
            summary="Generate a self-signed CA",
            request=_maybe(_object("", **CSR_FIELDS, ca=CA_FIELDS)),
            result=_object("", "private_key", "certificate", private_key=PEM, certificate=PEM),
        ),
        "revoke": Operation(
            method="POST",
            summary="Revoke a certificate",
            request=_object(
                "",
                "serial",
                serial=_required("the serial number: decimal, 0x and hex, or pairs with colons"),
                authority_key_id=_string("in hex; not needed if the serial number is enough"),
                reason=_string("a name or number of RFC 5280 §5.3.1", examples=["superseded", "1"]),
            ),
            result={"type": "object"},
        ),
        "ocspsign": Operation(
            method="POST",
            summary="Sign an OCSP response about a certificate",
            request=_object(
                "",
                "certificate",
                certificate=_required("the certificate in PEM"),
                status=_string(examples=["good", "revoked", "unknown"]),
                reason=_integer("the reason of a revocation as a number"),
                revoked_at=_string("a date such as 2026-05-04, or now"),
                issuer_hash=_string("the hash algorithm of the CertID", examples=["SHA1", "SHA256"]),
            ),
            result=_object("", "ocspResponse", ocspResponse={"type": "string"}),
        ),
        "crl": Operation(
            method="GET",
            summary="Sign the CRL of the CA, from the database",
            parameters=(_query("expiry", "how long the CRL is valid, as a Go duration", examples=["168h"]),),
            result={"type": "string", "description": "base64 of the DER"},
        ),
        "gencrl": Operation(
            method="POST",
            summary="Sign a CRL of the given serial numbers with the given key",
            request=_object(
                "",
                "certificate",
                "issuingKey",
                certificate=_required("the CA certificate in PEM"),
                serialNumber=_list(_string(), "serial numbers in decimal"),
                issuingKey=_required("the private key of the CA in PEM"),
                expireTime=_string("how many seconds the CRL is valid"),
            ),
            result={"type": "string", "description": "base64 of the DER"},
        ),
        "certadd": Operation(
            method="POST",
            summary="Add a certificate that was issued elsewhere to the database",
            request=_object(
                "",
                "serial_number",
                "authority_key_identifier",
                "status",
                "pem",
                "expiry",
                serial_number=_required("in decimal"),
                authority_key_identifier=_required("in hex"),
                ca_label=_string(),
                status=_required("the status", examples=["good", "revoked", "unknown"]),
                reason=_integer("the reason of a revocation as a number"),
                expiry=_required("the certificate's notAfter (RFC 3339)"),
                revoked_at=_string("RFC 3339"),
                pem=_required("the certificate"),
                issued_at=_string("RFC 3339"),
                not_before=_string("RFC 3339"),
                metadata={},
                sans={},
                common_name=_string(),
            ),
            result={"type": "object"},
        ),
        "bundle": Operation(
            method="POST",
            summary="Build the chain of a certificate, given or fetched from a TLS server",
            description="`certificate` or `domain` is needed. Values that are no strings are error 500.",
            request=_object(
                "",
                certificate=_text("in PEM; intermediates may follow"),
                private_key=_text("the key of the certificate, which is checked against it"),
                flavor=_text("what to optimise for", examples=["ubiquitous", "optimal", "force"]),
                domain=_text("whose certificate to fetch, or what a given one must be for"),
                ip=_text("where to fetch it, or what a given one must be for"),
            )
            | {"additionalProperties": {"type": "string"}},
            result=BUNDLE,
        ),
        "certinfo": Operation(
            method="POST",
            summary="Describe a certificate: one that is given, served by a host, or in the database",
            description=(
                "`certificate`, `domain`, or `serial` with `authority_key_id` is needed; the first of these "
                "counts. Values that are no strings, and certificates that are not found, are error 500."
            ),
            request=_object(
                "",
                certificate=_text("in PEM"),
                domain=_text("host or host:port of a TLS server"),
                serial=_text("a serial number"),
                authority_key_id=_text("in hex"),
            )
            | {"additionalProperties": {"type": "string"}},
            result=_object(
                "",
                *_CERTIFICATE_TEXTS,
                "subject",
                "issuer",
                subject={"type": "object"},
                issuer={"type": "object"},
                sans={"type": "array", "items": {"type": "string"}},
                **{name: {"type": "string"} for name in _CERTIFICATE_TEXTS},
            ),
        ),
        "scan": Operation(
            method="GET",
            summary="Scan a TLS server",
            description="The result has an object for each family. 503 if too many scans run.",
            parameters=(
                _query("host", "host or host:port", required=True, minLength=1),
                _query("ip", "an address to connect to instead of those of the host"),
                _query("family", "an RE2 expression that is in the name of a family"),
                _query("scanner", "an RE2 expression that is in the name of a scanner"),
                _query("timeout", "a Go duration from 1s to 5m", examples=["30s"]),
            ),
            result={
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": _SCANNED},
            },
        ),
        "scaninfo": Operation(
            method="GET",
            summary="List the families of scanners",
            result={
                "type": "object",
                "additionalProperties": _object(
                    "",
                    "description",
                    "scanners",
                    description={"type": "string"},
                    scanners={"type": "object"},
                ),
            },
        ),
        "health": Operation(
            method="GET",
            summary="Report whether the server can work",
            description="503 if the certificate database does not respond.",
            result=_object("", "healthy", healthy={"type": "boolean"}),
        ),
    }.items()
} | {
    "/crl": Operation(
        method="GET", summary="The complete CRL of the CA, in DER", content="application/pkix-crl"
    ),
    "/crl/*": Operation(
        method="GET",
        summary="A CRL by the key identifier of its CA, in DER",
        description="KEYID.crl is the complete CRL, KEYID-delta.crl the delta CRL.",
        content="application/pkix-crl",
    ),
}
"""By path; one that ends in `/*` stands for every path with one more segment."""


def operation_of(path: str) -> Operation | None:
    """Return the description of an endpoint, None if there is none."""
    return OPERATIONS.get(path) or OPERATIONS.get(f"{path.rpartition('/')[0]}/*")


_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
    },
}
_FAILURE = {
    "description": "Refused. The body is JSON, labelled text/plain as CFSSL labels it.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def document(paths: Mapping[str, Endpoint]) -> Schema:
    """Return the OpenAPI document of these endpoints."""
    described: dict[str, Any] = {}
    for path in sorted(paths):
        operation = operation_of(path)
        if operation is not None:
            place = f"{path[:-1]}{{name}}" if path.endswith("/*") else path
            described[place] = {operation.method.lower(): _operation(path, operation)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ocspd",
            "version": __version__,
            "description": "CFSSL's API. Keys of objects are read in any case; unknown ones are ignored.",
        },
        "paths": described,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only needed where `access` of the configuration says so.",
                }
            }
        },
        "security": [{}, {"token": []}],
    }


def _operation(path: str, operation: Operation) -> Schema:
    schema: Schema = {
        "operationId": path.strip("/").replace("/", "_").replace("*", "name"),
        "summary": operation.summary,
        **_described(operation.description),
        "responses": {"200": _success(operation), "4XX": _FAILURE, "5XX": _FAILURE},
    }
    if operation.content:
        schema["responses"]["304"] = {"description": "The client has it already."}
    parameters = list(operation.parameters)
    if path.endswith("/*"):
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        schema["parameters"] = parameters
    if operation.request is not None:
        schema["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": operation.request}},
        }
    return schema


def _success(operation: Operation) -> Schema:
    if operation.content:
        return {"description": "Success.", "content": {operation.content: {}}}
    envelope = {
        "type": "object",
        "required": ["success", "result", "errors", "messages"],
        "properties": {
            "success": {"const": True},
            "result": operation.result,
            "errors": {"type": "array", "maxItems": 0},
            "messages": _MESSAGES,
        },
    }
    return {"description": "Success.", "content": {"application/json": {"schema": envelope}}}


def endpoint(paths: Mapping[str, Endpoint]) -> Endpoint:
    """Return the endpoint that serves the description of others."""
    body = (wire.dumps(document(paths)) + "\n").encode()

    async def run(_call: Call) -> Document:
        return Document(body=body, content_type=JSON["Content-Type"])

    return Endpoint("GET", run, head=True)
