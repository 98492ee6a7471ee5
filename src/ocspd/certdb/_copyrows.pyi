"""Status rows in PostgreSQL's binary COPY format (PostgreSQL manual, COPY, Binary Format).

Six columns: serial_number and authority_key_identifier and status as text or bytea, reason as int4,
revoked_at and expiry as timestamptz.
"""

def header_size(data: bytes) -> int:
    """Return the size of the file header that data begins with. ValueError when it begins with none."""

def whole_rows(data: bytes) -> tuple[int, int]:
    """Return how many bytes of data are whole rows, and how many rows they are.

    The trailer that ends the format is no row. ValueError for what is no such row.
    """

def unpack(
    data: bytes,
) -> tuple[dict[bytes, list[tuple[int, int, int, float | None]]], list[tuple[bytes | None, ...]]]:
    """Read whole rows: by key identifier, (serial, status, reason, revocation time in seconds since 1970).

    Reason and revocation time are those of revoked certificates; expiry is not read, but has to be there.
    Rows that are unusual in any way, one without a key identifier included, come back as their columns;
    None is NULL.
    ValueError for what is no such row.
    """
