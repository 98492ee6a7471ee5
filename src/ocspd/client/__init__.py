"""Clients for programs: CFSSL's API (`APIClient`), and OCSP as a relying party asks it (`OCSPClient`).

Everything is asynchronous and typed. Errors are `ocspd.errors.CodedError` with CFSSL's numbers (`transport`)
and, for a response that must not be trusted, `ocspd.errors.OCSPDError`. docs/client.md has examples.
"""

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
