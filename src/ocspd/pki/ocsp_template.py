"""The hot part of presigning: whatever does not vary between responses is encoded once.

Within a batch (one issuer, one instant) two responses differ in serial number, status and signature
only, and in the lengths around them. So a batch keeps, for each CertID hash and serial length, the
bytes of ResponseData before the serial and after it; for each (ResponseData, signature) length, what
goes around them. Signing one certificate is then one `int.to_bytes`, two joins and `key.sign`, in a
native loop (`_presign`).

    OCSPResponse ::= SEQUENCE {                                    | head
      responseStatus ENUMERATED (successful),                      |
      responseBytes [0] { SEQUENCE { id-pkix-ocsp-basic, OCTET STRING {
        BasicOCSPResponse ::= SEQUENCE {                           |
          tbsResponseData ::= SEQUENCE {                           | prefix
            responderID, producedAt,                               |
            SEQUENCE OF { SEQUENCE { CertID {algorithm, hashes,    |
                serialNumber                                         <- varies
              }, certStatus                                          <- varies
              thisUpdate, [0] nextUpdate } } }                     | times
          signatureAlgorithm, BIT STRING {                         | middle
            signature                                                <- varies
          }, [0] certs } } } }                                     | tail

No version (DEFAULT v1, RFC 6960 §4.2.1) and no extension (RFC 9919 §3.2.1) is written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.model import ZERO_TIME, CertStatus, known_reason
from ocspd.pki import der
from ocspd.pki._presign import Presigner
from ocspd.pki.certid import check_hash_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ocspd.model import Row

_BASIC = der.oid("1.3.6.1.5.5.7.48.1.1")
_SUCCESSFUL = der.tlv(der.ENUMERATED, b"\x00")
_GOOD = der.tlv(der.context(CertStatus.GOOD, constructed=False))
_UNKNOWN = der.tlv(der.context(CertStatus.UNKNOWN, constructed=False))
_MAX_SERIAL_BITS = 8191  # 1024 bytes with the sign; a certificate has at most 20 (RFC 5280 §4.1.2.2)
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class ResponseWriter(Protocol):
    """Takes signed responses; `index._writer.SegmentWriter` is one."""

    def add(self, der: bytes, refresh_at: int | None = None) -> None:
        """Take one response, due for renewal at `refresh_at` (seconds since the epoch)."""
        ...


class SerialError(OCSPDError, ValueError):
    """A serial number for which no response can be made."""


class ResponseBatch:
    """Signs the responses of one issuer at one instant. Made by `OCSPSigner.batch`; not thread-safe."""

    __slots__ = (
        "_certids",
        "_good",
        "_presigner",
        "_signature_algorithm",
        "_start",
        "_tail",
        "_times",
        "next_update",
        "produced_at",
        "this_update",
    )

    def __init__(  # noqa: PLR0913  (the parts of a response)
        self,
        *,
        sign: Callable[[bytes], bytes],
        signature_algorithm: bytes,
        responder_id: bytes,
        certid_prefixes: Mapping[str, bytes],
        certificates: bytes,
        produced_at: datetime,
        this_update: datetime,
        next_update: datetime,
    ) -> None:
        """Encode what does not vary.

        `sign` signs bytes; `signature_algorithm` and `responder_id` are DER; `certid_prefixes` maps
        every name in `certid.HASHES` to its `certid_prefix`; `certificates` is the DER of the [0]
        certs, or empty.
        """
        self.produced_at = produced_at
        self.this_update = this_update
        self.next_update = next_update
        self._signature_algorithm = signature_algorithm
        self._start = responder_id + der.generalized_time(produced_at)
        self._certids = certid_prefixes
        self._tail = certificates
        self._times = der.generalized_time(this_update) + der.tlv(
            der.context(0, constructed=True), der.generalized_time(next_update)
        )
        self._good = _GOOD + self._times
        self._presigner = Presigner(sign, prefix=self._prefix, frame=self._frame, tail=certificates)

    def sign(
        self,
        serial: int,
        status: int = CertStatus.GOOD,
        reason: int = 0,
        revoked_at: datetime | None = None,
        certid_hash: str = "sha1",
    ) -> bytes:
        """Sign one OCSPResponse and return its DER.

        `reason` and `revoked_at` count for revoked certificates only; reason 0 is left out (RFC 5280
        §5.3.1), an unknown time is written as the epoch: the certificate was never to be trusted. A time
        after thisUpdate is written as thisUpdate, as a reader must not take the revocation for a future one.
        Raises SerialError for a negative serial number and CodedError 8200 for an undefined status or
        reason.
        """
        return self.sign_each(serial, status, reason, revoked_at, (certid_hash,))[0]

    def sign_each(
        self,
        serial: int,
        status: int,
        reason: int,
        revoked_at: datetime | None,
        certid_hashes: Sequence[str],
    ) -> list[bytes]:
        """Sign one certificate's OCSPResponse under each CertID hash, in their order; see `sign`."""
        if serial < 0:
            raise SerialError(f"serial {serial} is negative")
        if serial.bit_length() > _MAX_SERIAL_BITS:
            raise SerialError("the serial number has more than 1024 bytes")
        rest = self._good if status == 0 else self._rest(status, reason, revoked_at)
        return self._presigner.sign(serial, rest, certid_hashes)

    def sign_rows(  # noqa: PLR0913  (what to sign, where to, and beside whom)
        self,
        rows: Sequence[Row],
        certid_hashes: Sequence[str],
        *,
        writer: ResponseWriter | None,
        due_s: int,
        keep: bool,
        yielding: bool = False,
    ) -> list[list[bytes] | str]:
        """Sign rows under each CertID hash; one that cannot be signed ends nothing.

        Returns the responses of each row, or the reason why there are none. `writer` gets the responses, due
        for renewal at `due_s`; without `keep` the returned lists are empty. A reason that is not a CRLReason
        is left out. With `yielding`, anything else waiting for this CPU gets it every few signatures.
        """
        responses, _ = self._presigner.sign_rows(
            rows,
            good=self._good,
            other=self._rest_of_row,
            certid_hashes=certid_hashes,
            writer=writer,
            due_s=due_s,
            keep=keep,
            yielding=yielding,
        )
        return responses

    def _rest_of_row(self, status: int, reason: int, revoked_s: float | None) -> bytes | str:
        """Encode what follows the serial number of a row that is not good, or return why it is impossible."""
        if status == CertStatus.UNKNOWN:
            return self._rest(status, 0, None)
        if status != CertStatus.REVOKED:
            return "unknown status"
        return self._rest(
            status,
            reason if known_reason(reason) else 0,
            None if revoked_s is None else datetime.fromtimestamp(revoked_s, UTC),
        )

    def _rest(self, status: int, reason: int, revoked_at: datetime | None) -> bytes:
        """Encode what follows the serial number; a time of revocation is never after thisUpdate."""
        if revoked_at is not None and revoked_at > self.this_update:
            revoked_at = self.this_update
        return _status(status, reason, revoked_at) + self._times

    def _prefix(self, certid_hash: str, serial_size: int, rest_size: int) -> bytes:
        """Encode ResponseData up to the content of the serial number."""
        check_hash_name(certid_hash)
        certid = self._certids[certid_hash]
        start = self._start
        serial = der.header(der.INTEGER, serial_size)
        certid_size = len(certid) + len(serial) + serial_size
        inner = der.header(der.SEQUENCE, certid_size) + certid + serial
        single_size = len(inner) + serial_size + rest_size
        inner = der.header(der.SEQUENCE, single_size) + inner
        list_size = len(inner) + serial_size + rest_size
        inner = start + der.header(der.SEQUENCE, list_size) + inner
        return der.header(der.SEQUENCE, len(inner) + serial_size + rest_size) + inner

    def _frame(self, data_size: int, signature_size: int) -> tuple[bytes, bytes]:
        """Encode what precedes ResponseData, and what is between it and the signature."""
        middle = self._signature_algorithm + der.header(der.BIT_STRING, signature_size + 1) + b"\x00"
        basic_size = data_size + len(middle) + signature_size + len(self._tail)
        head = der.header(der.SEQUENCE, basic_size)
        head = der.header(der.OCTET_STRING, len(head) + basic_size) + head
        head = _BASIC + head
        head = der.header(der.SEQUENCE, len(head) + basic_size) + head
        head = der.header(der.context(0, constructed=True), len(head) + basic_size) + head
        head = _SUCCESSFUL + head
        head = der.header(der.SEQUENCE, len(head) + basic_size) + head
        return head, middle


def _status(status: int, reason: int, revoked_at: datetime | None) -> bytes:
    """Encode CertStatus other than good."""
    if status == CertStatus.UNKNOWN:
        return _UNKNOWN
    if status != CertStatus.REVOKED:
        raise CodedError(Code.OCSP_INVALID_STATUS, "Invalid revocation status")
    if not known_reason(reason):
        raise CodedError(
            Code.OCSP_INVALID_STATUS, f"Invalid revocation reason {reason}: use a number 0-6 or 8-10"
        )
    if revoked_at is None or revoked_at == ZERO_TIME:
        revoked_at = _UNKNOWN_TIME
    parts = der.generalized_time(revoked_at.astimezone(UTC))
    if reason:
        parts += der.tlv(der.context(0, constructed=True), der.tlv(der.ENUMERATED, bytes((reason,))))
    return der.tlv(der.context(CertStatus.REVOKED, constructed=True), parts)
