"""The loop of presigning: rows of certificates in, signed OCSPResponses out (RFC 6960 §4.2.1)."""

from collections.abc import Callable, Sequence
from typing import final

from ocspd.pki.ocsp_template import ResponseWriter

@final
class Presigner:
    """Signs with the forms of one batch.

    A response is head, ResponseData, middle, signature and tail; ResponseData is prefix, serial number
    and rest (status and times). All but serial, rest and signature depend on lengths only, so `prefix`
    and `frame` are asked once for each combination of lengths. Not for several threads at a time.
    """

    def __init__(
        self,
        sign: Callable[[bytes], bytes],
        *,
        prefix: Callable[[str, int, int], bytes],
        frame: Callable[[int, int], tuple[bytes, bytes]],
        tail: bytes,
    ) -> None:
        """`prefix` gets CertID hash and the bytes of serial number and rest, `frame` those of ResponseData
        and signature; it returns head and middle."""
    def sign(self, serial: int, rest: bytes, certid_hashes: Sequence[str]) -> list[bytes]:
        """Sign one certificate's response under each CertID hash, in their order.

        ValueError for a serial number that is negative or longer than 1024 bytes.
        """
    def sign_rows(
        self,
        rows: Sequence[tuple[int, int, int, float | None]],
        *,
        good: bytes,
        other: Callable[[int, int, float | None], bytes | str],
        certid_hashes: Sequence[str],
        writer: ResponseWriter | None,
        due_s: int,
        keep: bool,
        yielding: bool,
    ) -> tuple[list[list[bytes] | str], int]:
        """Sign rows of serial, status, reason and revocation time; return responses and how many were made.

        `good` is the rest of status 0; `other` is asked for that of any other, or for the cause why there
        is no response. The cause of a serial that is negative or longer than 64 bytes is `bad serial`.
        `writer` gets the responses, due for replacement at `due_s`; without `keep` the lists returned are
        empty. When `yielding`, whatever else waits for this CPU gets it every 50 us, or after each signature
        that takes longer (sched_yield(2)).
        """
