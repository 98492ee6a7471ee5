"""The errors ocspd raises, as one tree.

    OCSPDError              exit code 1
     ├─ UsageError          exit code 2: the command line cannot be understood
     │   └─ RangeError      a flag has a value out of its range
     ├─ ConfigError         a configuration file or setting cannot be used
     ├─ CodedError          carries a CFSSL number; JSON on stderr and in API replies
     │   └─ SetupError      a database that cannot be used until a person has done something about it
     ├─ DERError            bytes that are not the expected DER structure
     ├─ IndexFileError      a segment, manifest or index directory cannot be used
     ├─ SignerError         the signer of one issuer cannot sign at present
     ├─ FetchError          another host cannot be reached, may not be, or does not reply as it should
     └─ ProcessError        a signing process has ended or cannot be started

Each edge has one mapping: the command line prints `str(error)` and exits with `exit_code`; the
CFSSL API turns CodedError into HTTP 400 (authority/api/api_response.py); the responder turns DERError into
malformedRequest. A message names the object (path, serial, issuer) and, where there is one, the
remedy.
"""

from __future__ import annotations

import json
from enum import IntEnum


class OCSPDError(Exception):
    """Any error ocspd raises on purpose."""

    exit_code = 1


class UsageError(OCSPDError):
    """The command line cannot be understood; the usage text follows the message."""

    exit_code = 2


class RangeError(UsageError):
    """A flag has a value out of its range, which the message names; no usage text has to follow it."""


class ConfigError(OCSPDError):
    """A configuration file or setting cannot be used."""


class DERError(OCSPDError, ValueError):
    """Bytes are not the expected DER structure (malformedRequest for requests)."""


class IndexFileError(OCSPDError):
    """A segment, manifest or index directory cannot be used; the message starts with its path."""


class SignerError(OCSPDError):
    """The signer of one issuer cannot sign: its certificate has expired, or its key fails."""


class FetchError(OCSPDError):
    """Another host cannot be reached, may not be, or does not reply as it should; the message names it."""


class ProcessError(OCSPDError):
    """A signing process has ended, cannot be started, or sent an unknown message."""


class Code(IntEnum):
    """CFSSL's error numbers: category (thousands) plus reason (`errors/doc.go` of CFSSL)."""

    CERT_UNKNOWN = 1000
    CERT_READ_FAILED = 1001
    CERT_DECODE_FAILED = 1002
    CERT_PARSE_FAILED = 1003
    CERT_SELF_SIGNED = 1100
    CERT_VERIFY_FAILED = 1200
    CERT_NOT_AUTHORIZED_TO_SIGN = 1210
    CERT_EXPIRED = 1211
    CERT_NAME_NOT_ALLOWED = 1212
    CERT_TOO_MANY_INTERMEDIATES = 1213
    CERT_UNKNOWN_AUTHORITY = 1220
    CERT_BAD_REQUEST = 1300
    CERT_MISSING_SERIAL = 1400
    KEY_UNKNOWN = 2000
    KEY_READ_FAILED = 2001
    KEY_DECODE_FAILED = 2002
    KEY_PARSE_FAILED = 2003
    KEY_ENCRYPTED = 2100
    KEY_UNSUPPORTED = 2200
    KEY_MISMATCH = 2300
    KEY_GENERATION_FAILED = 2400
    KEY_UNAVAILABLE = 2500
    INTERMEDIATES_READ_FAILED = 3001
    INTERMEDIATES_PARSE_FAILED = 3003
    ROOT_READ_FAILED = 4001
    ROOT_PARSE_FAILED = 4003
    POLICY_UNKNOWN = 5000
    POLICY_NO_KEY_USAGES = 5100
    POLICY_INVALID = 5200
    POLICY_INVALID_REQUEST = 5300
    POLICY_UNKNOWN_PROFILE = 5400
    POLICY_UNMATCHED_WHITELIST = 5500
    DIAL_FAILED = 6000
    CLIENT_AUTH_FAILED = 7100
    CLIENT_JSON = 7200
    CLIENT_IO = 7300
    CLIENT_HTTP = 7400
    CLIENT_SERVER_FAILED = 7500
    OCSP_NO_CERTIFICATE = 8001
    OCSP_ISSUER_MISMATCH = 8100
    OCSP_INVALID_STATUS = 8200
    CSR_UNKNOWN = 9000
    CSR_READ_FAILED = 9001
    CSR_DECODE_FAILED = 9002
    CSR_PARSE_FAILED = 9003
    CSR_BAD_REQUEST = 9300
    CT_UNKNOWN = 10000
    CT_SUBMISSION_FAILED = 10100
    CT_POISON_MISSING = 10300
    CT_POISON_INVALID = 10400
    STORE_FAILED = 11000
    STORE_INSERT_FAILED = 11100
    STORE_NOT_FOUND = 11200
    AUDIT_FAILED = 12000
    """A category of ours: the audit log cannot be written."""


class CodedError(OCSPDError):
    """An error with one of CFSSL's numbers; its text form is CFSSL's compact JSON object."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        text = json.dumps(self.message, ensure_ascii=False)
        for char in "<>&":
            text = text.replace(char, f"\\u{ord(char):04x}")
        return f'{{"code":{int(self.code)},"message":{text}}}'


class SetupError(CodedError):
    """A database that cannot be used until a person creates it, migrates it, or corrects a login.

    Unlike for a database that is down, there is no use in waiting.
    """

    def __init__(self, message: str) -> None:
        super().__init__(Code.STORE_FAILED, message)

    def __reduce__(self) -> tuple[type[SetupError], tuple[str]]:
        return SetupError, (self.message,)
