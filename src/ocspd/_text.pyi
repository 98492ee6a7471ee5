"""Texts around OCSP that the native modules read and write."""

def http_date(seconds: int) -> str:
    """Write an HTTP date (RFC 9110 §5.6.7) for seconds since the epoch; ValueError outside years 0-9999."""
