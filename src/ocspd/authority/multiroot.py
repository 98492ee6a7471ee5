"""The endpoints of multirootca: several CAs behind one address, chosen by the label in a request.

`authsign` and `info`, as CFSSL's program has them. Each CA has a signing configuration of its own, and a
request is checked with the keys of the CA it names and no other: the label is under the token. Statuses and
texts are those of multirootca, which are not those of `serve`: every error has code 1, and says little; the
reason is in the log. A request has the full form that CFSSL's library sends (`sign_request`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.authority.api.api_response import PLAIN_TEXT, BadRequest, Success, failure_body
from ocspd.authority.api.call import Document, Endpoint
from ocspd.authority.api.sign import read_authenticated, read_info, sign_request
from ocspd.authority.offload import offload, read_input
from ocspd.errors import OCSPDError
from ocspd.logs import logger
from ocspd.pki.certs import load_certificate
from ocspd.pki.extensions import Extension
from ocspd.pki.names import is_oid
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocspd.authority.api.call import Call
    from ocspd.authority.api.sign import Signer
    from ocspd.authority.multiroot_config import RootFiles
    from ocspd.authority.multiroot_metrics import MultiRootMetrics
    from ocspd.pki.issuer import SignRequest
    from ocspd.pki.profiles import Profile

_CODE = 1
METRICS_PATH = "/metrics"


@dataclass(frozen=True, slots=True)
class Root:
    """A CA that is ready to sign, and the section it comes from."""

    files: RootFiles
    signer: Signer


class Refused(OCSPDError):
    """A request that is not granted: what the client is told, and what only the log has."""

    def __init__(self, status: HTTPStatus, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason = reason


class MultiRoot:
    """The CAs by label; `default_label` is for requests without one."""

    def __init__(self, roots: Mapping[str, Root], default_label: str, metrics: MultiRootMetrics) -> None:
        self._roots = roots
        self._default_label = default_label
        self._metrics = metrics

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints by path."""
        return {
            f"{wire.API_PREFIX}authsign": Endpoint("POST", self.authsign),
            f"{wire.API_PREFIX}info": Endpoint("POST", self.info),
            METRICS_PATH: Endpoint("GET", self.exposition, head=True),
        }

    async def authsign(self, call: Call) -> Success | Document:
        """Sign for a client that has the key of the CA and profile it names."""
        try:
            return await self._signed(call)
        except Refused as err:
            self._metrics.bad_input()
            reason = f" ({err.reason})" if err.reason else ""
            logger.error("[HTTP %d] %d - %s%s", err.status.value, _CODE, err.text, reason)
            return Document(
                status=err.status,
                body=failure_body(_CODE, err.text),
                content_type=PLAIN_TEXT["Content-Type"],
                headers={"X-Content-Type-Options": "nosniff"},
            )

    async def _signed(self, call: Call) -> Success:
        try:
            token, inner = await read_input(read_authenticated, call.body)
            request = await read_input(_read_request, inner)
        except wire.JSONError as err:
            raise Refused(HTTPStatus.BAD_REQUEST, str(err), "while reading the request") from None
        label = request.label or self._default_label
        root = self._root(label, call.caller.address)
        self._metrics.request(label)
        profile = _profile(root, request.profile)
        if profile.auth_key is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, "authorisation required", "the profile has no auth_key")
        keys = [key for key in (profile.auth_key, profile.prev_auth_key) if key is not None]
        if not any(key.verify(inner, token) for key in keys):
            raise Refused(HTTPStatus.BAD_REQUEST, "invalid token", "the token is of no key of this profile")
        if not request.csr_pem:
            raise Refused(HTTPStatus.BAD_REQUEST, "invalid request", "empty request")
        try:
            certificate = await root.signer.sign(replace(request, label=label))
        except OCSPDError as err:
            self._metrics.failure(label)
            raise Refused(HTTPStatus.BAD_REQUEST, "bad request", f"signature failed: {err}") from err
        serial = (await offload(lambda: load_certificate(certificate.encode()))).serial_number
        logger.info(
            "signature: requester=%s, label=%s, profile=%s, serialno=%d",
            call.caller.address,
            label,
            shown(request.profile),
            serial,
        )
        return Success({"certificate": certificate})

    def _root(self, label: str, address: str) -> Root:
        root = self._roots.get(label)
        if root is None:
            raise Refused(
                HTTPStatus.BAD_REQUEST, "bad request", f"request is for non-existent label {shown(label)}"
            )
        if not root.files.permits(_host(address)):
            raise Refused(
                HTTPStatus.FORBIDDEN, "not authorised", f"{address} is not in the nets of {root.files.label}"
            )
        return root

    async def info(self, call: Call) -> Success:
        """Describe a CA: `{"certificate", "usages", "expiry"}` of a profile."""
        try:
            label, profile = await read_input(read_info, call.body)
        except wire.JSONError as err:
            raise BadRequest(str(err)) from None
        root = self._roots.get(label or self._default_label)
        if root is None:
            raise BadRequest("bad label")
        return Success(await root.signer.info(label="", profile=profile))

    async def exposition(self, call: Call) -> Document:
        """Return the counters in Prometheus' text format."""
        del call
        body, content_type = self._metrics.exposition()
        return Document(body=body, content_type=content_type)


def warn_of_shared_keys(roots: Mapping[str, Root]) -> None:
    """Warn if a key of one CA works for another, because both configurations have it."""
    users: dict[bytes, list[str]] = {}
    for label, root in roots.items():
        for key in {each.key for each in root.signer.config.auth_keys.values()}:
            users.setdefault(key, []).append(label)
    for labels in users.values():
        if len(labels) > 1:
            logger.warning(
                "%s have an auth key in common: who has it can use each of them", ", ".join(labels)
            )


def _profile(root: Root, name: str) -> Profile:
    """Return a profile by its name, or the default one without a name."""
    config = root.signer.config
    if not name:
        return config.default
    found = config.profiles.get(name)
    if found is None:
        raise Refused(
            HTTPStatus.BAD_REQUEST, "invalid profile", f"{root.files.label} has no profile {shown(name, 100)}"
        )
    return found


def _host(address: str) -> str:
    """Return the IP address in a caller's `host:port`."""
    return address.rpartition(":")[0].strip("[]").partition("%")[0]


def _read_request(data: bytes) -> SignRequest:
    """Read the request under the token, as CFSSL's library writes it.

    Unlike `serve`, multirootca has no `hostname`, but the CRL's URL, extensions, times and metadata.
    """
    fields = wire.Fields(wire.loads(data), "SignRequest")
    known = {key: value for key, value in fields.values().items() if wire.fold(key) != "hostname"}
    return replace(
        sign_request(wire.Fields(known, fields.struct)),
        extensions=tuple(_extension(item) for item in fields.items("extensions", "Extension")),
        not_before=_time(fields, "NotBefore"),
        not_after=_time(fields, "NotAfter"),
        metadata=fields.mapping("metadata", "interface {}"),
        return_precert=fields.boolean("ReturnPrecert"),
    )


def _extension(fields: wire.Fields) -> Extension:
    """Read an extension, whose value is hexadecimal here."""
    oid = fields.string("id")
    if not is_oid(oid):
        raise wire.JSONError("json: an extension's id is not an object identifier such as 1.2.3.4")
    try:
        value = bytes.fromhex(fields.string("value"))
    except ValueError:
        raise wire.JSONError("json: an extension's value is not hexadecimal") from None
    return Extension(oid, fields.boolean("critical"), value)


def _time(fields: wire.Fields, key: str) -> datetime | None:
    """Read a time; the year 1, Go's zero time, which its clients always send, is none."""
    text = fields.string(key)
    if not text:
        return None
    try:
        moment: datetime | None = datetime.fromisoformat(text)
        # without an offset it would be taken for this machine's local time; Go rejects it (RFC 3339)
        moment = moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None and not text.startswith("0001-01-01T00:00:00"):
        raise wire.JSONError(f"json: {key} is not a time such as 2006-01-02T15:04:05Z")
    return None if moment is None or moment.year == 1 else moment
