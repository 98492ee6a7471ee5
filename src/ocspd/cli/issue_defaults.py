"""`print-defaults`: the templates a new configuration starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd.cli.io import write_stdout
from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from ocspd.cli.flags import Flags

_CONFIG = """\
{
    "signing": {
        "default": {
            "expiry": "168h"
        },
        "profiles": {
            "www": {
                "expiry": "8760h",
                "usages": [
                    "signing",
                    "key encipherment",
                    "server auth"
                ]
            },
            "client": {
                "expiry": "8760h",
                "usages": [
                    "signing",
                    "key encipherment",
                    "client auth"
                ]
            },
            "intermediate": {
                "expiry": "43800h",
                "usages": [
                    "cert sign",
                    "crl sign"
                ],
                "ca_constraint": {
                    "is_ca": true,
                    "max_path_len": 0,
                    "max_path_len_zero": true
                }
            },
            "ocsp": {
                "expiry": "2160h",
                "usages": [
                    "digital signature",
                    "ocsp signing"
                ],
                "ocsp_no_check": true
            }
        }
    }
}
"""

_CSR = """\
{
    "CN": "example.net",
    "hosts": [
        "example.net",
        "www.example.net"
    ],
    "key": {
        "algo": "ecdsa",
        "size": 256
    },
    "names": [
        {
            "C": "US",
            "ST": "CA",
            "L": "San Francisco"
        }
    ]
}
"""

_TEMPLATES = {"config": _CONFIG, "csr": _CSR}


def print_defaults(_flags: Flags, arguments: list[str]) -> None:
    """Print a template with a blank line after it; `list` or an unknown type prints the available types."""
    if not arguments:
        raise OCSPDError("not enough arguments are supplied --- please refer to the usage")
    template = _TEMPLATES.get(arguments[0])
    if template is None:
        lines = "".join(f"\t{name}\n" for name in _TEMPLATES)
        write_stdout(f"Default configurations are available for:\n{lines}")
    else:
        write_stdout(f"{template}\n")
