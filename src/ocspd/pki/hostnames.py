"""Whether a certificate is for a host: Go's `VerifyHostname`, with its texts (RFC 6125, RFC 9525)."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from ocspd.errors import Code, CodedError
from ocspd.pki import extensions, sans
from ocspd.pki.certs import alternative_names, subject_name

if TYPE_CHECKING:
    from cryptography import x509

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_NAMES = 100


def check_hostname(certificate: x509.Certificate, host: str) -> None:
    """Check that a certificate is for a host name or an IP address; CodedError 1200 if it is not.

    A wildcard is the whole first label of a name. The common name does not count.
    """
    names = alternative_names(certificate)
    address = sans.ip_address(host.removeprefix("[").removesuffix("]") if host[:1] == "[" else host)
    if address is not None:
        if any(_same_address(each, address) for each in names.ips):
            return
    elif any(_matches(pattern, host) for pattern in names.dns):
        return
    raise CodedError(
        Code.CERT_VERIFY_FAILED, _mismatch(certificate, names, host, is_address=address is not None)
    )


def _same_address(one: bytes, other: bytes) -> bool:
    def plain(octets: bytes) -> bytes:
        return octets[12:] if len(octets) == 16 and octets.startswith(bytes(10) + b"\xff\xff") else octets

    return plain(one) == plain(other)


def _matches(pattern: str, host: str) -> bool:
    if not (_is_host(host) and _is_pattern(pattern)):
        return bool(host.strip(".")) and pattern.lower() == host.lower()
    wanted = pattern.lower().split(".")
    found = host.lower().removesuffix(".").split(".")
    if len(wanted) != len(found):
        return False
    return all(
        (position == 0 and one == "*") or one == other
        for position, (one, other) in enumerate(zip(wanted, found, strict=True))
    )


def _is_host(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return all(_LABEL.fullmatch(label) and label[0] != "-" for label in labels)


def _is_pattern(text: str) -> bool:
    first, _, rest = text.partition(".")
    if first == "*":
        return bool(rest) and _is_host(rest) and not text.endswith(".")
    return _is_host(text) and not text.endswith(".")


def _mismatch(
    certificate: x509.Certificate, names: sans.AlternativeNames, host: str, *, is_address: bool
) -> str:
    found = extensions.find(extensions.of_certificate(certificate), extensions.SUBJECT_ALT_NAME)
    if found is None:
        try:
            common_name = subject_name(certificate).common_name
        except CodedError:
            common_name = ""
        if common_name and _matches(common_name, host):
            return "x509: certificate relies on legacy Common Name field, use SANs instead"
    if is_address:
        if not names.ips:
            return f"x509: cannot validate certificate for {host} because it doesn't contain any IP SANs"
        valid = [str(ipaddress.ip_address(each)) for each in names.ips]
    else:
        valid = list(names.dns)
    if len(valid) >= _SHOWN_NAMES:
        return f"x509: certificate is valid for {len(valid)} names, but none matched {host}"
    if not valid:
        return f"x509: certificate is not valid for any names, but wanted to match {host}"
    return f"x509: certificate is valid for {', '.join(valid)}, not {host}"
