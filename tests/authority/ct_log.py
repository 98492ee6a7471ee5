"""A small certificate transparency log: it checks a precertificate as a log does, and signs a timestamp.

Written from RFC 6962 with pyasn1, not with our code: what it signs is the TBSCertificate that it cuts out of
the precertificate itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtensionOID
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1_alt_modules import rfc5280

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

POISON = "1.3.6.1.4.1.11129.2.4.3"


class Refused(Exception):
    """A submission that a log does not accept."""


def spki(key: Any) -> bytes:
    """The DER of the SubjectPublicKeyInfo of a private or public key."""
    public = key if hasattr(key, "public_bytes") else key.public_key()
    found: bytes = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def without(tbs: bytes, oid: str) -> bytes:
    """A TBSCertificate without an extension."""
    decoded, rest = decode(tbs, rfc5280.TBSCertificate())
    assert not rest
    kept = [each for each in decoded["extensions"] if str(each["extnID"]) != oid]
    decoded["extensions"].clear()
    decoded["extensions"].extend(kept)
    found: bytes = encode(decoded)
    return found


def signed_data(timestamp: int, issuer_key_hash: bytes, tbs: bytes, extensions: bytes = b"") -> bytes:
    """What a log signs for a precertificate (RFC 6962 §3.2)."""
    head = struct.pack(">BBQH", 0, 0, timestamp, 1) + issuer_key_hash
    return head + len(tbs).to_bytes(3, "big") + tbs + struct.pack(">H", len(extensions)) + extensions


class Log:
    """A log with a key; `change` may alter a reply, and `seen` holds the precertificates."""

    def __init__(
        self, key: Any, roots: list[x509.Certificate], *, timestamp: int, path: str = "/2026"
    ) -> None:
        self.key, self.roots, self.timestamp, self.path = key, roots, timestamp, path
        self.seen: list[x509.Certificate] = []
        self.extensions = b""
        self.replies: list[web.Response | Callable[[], Any]] = []
        """Replies to send first, each once, instead of looking at the submission."""
        self.change: Callable[[dict[str, Any]], Any] = lambda reply: reply
        self.url = ""

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(spki(self.key)).digest()

    def key_text(self) -> str:
        """The key as the lists of browsers have it."""
        return base64.b64encode(spki(self.key)).decode()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if self.replies:
            reply = self.replies.pop(0)
            if isinstance(reply, web.Response):
                return reply
            made: web.StreamResponse = await reply()
            return made
        if (request.method, request.path) != ("POST", f"{self.path}/ct/v1/add-pre-chain"):
            return web.Response(status=404)
        try:
            answer = self.change(self.accept([base64.b64decode(each) for each in json.loads(body)["chain"]]))
        except Refused as err:
            return web.Response(status=400, text=str(err))
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def accept(self, chain: list[bytes]) -> dict[str, Any]:
        """Check a chain as a log does, and return the reply with a timestamp."""
        precertificate, issuer = (x509.load_der_x509_certificate(each) for each in chain)
        try:
            poison = precertificate.extensions.get_extension_for_oid(ExtensionOID.PRECERT_POISON)
        except x509.ExtensionNotFound:
            raise Refused("no poison") from None
        if not poison.critical:
            raise Refused("the poison is not critical")
        raw, _ = decode(chain[0], rfc5280.Certificate())
        values = [
            bytes(each["extnValue"])
            for each in raw["tbsCertificate"]["extensions"]
            if str(each["extnID"]) == POISON
        ]
        if values != [b"\x05\x00"]:
            raise Refused("the poison is not NULL")
        if issuer not in self.roots:
            raise Refused("the issuer is not accepted here")
        precertificate.verify_directly_issued_by(issuer)
        self.seen.append(precertificate)
        tbs = without(precertificate.tbs_certificate_bytes, POISON)
        issuer_key_hash = hashlib.sha256(spki(issuer.public_key())).digest()
        data = signed_data(self.timestamp, issuer_key_hash, tbs, self.extensions)
        return {
            "sct_version": 0,
            "id": base64.b64encode(self.log_id).decode(),
            "timestamp": self.timestamp,
            "extensions": base64.b64encode(self.extensions).decode(),
            "signature": base64.b64encode(self.digitally_signed(data)).decode(),
        }

    def digitally_signed(self, data: bytes) -> bytes:
        """RFC 5246 §4.7: hash, algorithm, length, signature."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            kind, signature = 1, self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        else:
            kind, signature = 3, self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return struct.pack(">BBH", 4, kind, len(signature)) + signature


@asynccontextmanager
async def serving(*logs: Log) -> AsyncIterator[None]:
    """Serve logs on loopback, each on a port of its own; sets their URLs."""
    runners = []
    try:
        for log in logs:
            runner = web.ServerRunner(web.Server(log), shutdown_timeout=1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            log.url = f"http://127.0.0.1:{runner.addresses[0][1]}{log.path}"
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
