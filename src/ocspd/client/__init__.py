"""Clients for programs: CFSSL's API (`APIClient`), and OCSP as a relying party asks it (`OCSPClient`).

Everything is asynchronous and typed. Errors are `ocspd.errors.CodedError` with CFSSL's numbers (`transport`)
and, for a response that must not be trusted, `ocspd.errors.OCSPDError`. docs/client.md has examples.

Names are imported when they are first used: the verbs of the command line take the settings of TLS from this
package, and must not wait for an HTTP client that few of them need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocspd.client.api import APIClient, CACertificate, IssuedCertificate, NewKey, SignerInfo
    from ocspd.client.ocsp import OCSPClient
    from ocspd.client.tls import RemoteTLS
    from ocspd.pki.relying_party import CheckedStatus, ErrorStatusError

__all__ = [
    "APIClient",
    "CACertificate",
    "CheckedStatus",
    "ErrorStatusError",
    "IssuedCertificate",
    "NewKey",
    "OCSPClient",
    "RemoteTLS",
    "SignerInfo",
]

_MODULES = {
    **dict.fromkeys(
        ("APIClient", "CACertificate", "IssuedCertificate", "NewKey", "SignerInfo"), "ocspd.client.api"
    ),
    "OCSPClient": "ocspd.client.ocsp",
    "RemoteTLS": "ocspd.client.tls",
    **dict.fromkeys(("CheckedStatus", "ErrorStatusError"), "ocspd.pki.relying_party"),
}
"""Where each name of `__all__` is."""


def __getattr__(name: str) -> Any:
    """Import one of the names above (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
