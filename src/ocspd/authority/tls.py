"""TLS of the API server: the flags of `cfssl serve` that begin with tls-, mutual-tls- and min-tls-.

CFSSL turns an unknown `-min-tls-version` (even 1.3) into TLS 1.0; here 1.3 works and unknown values are
rejected. Like CFSSL, TLS is on only when both `-tls-cert` and `-tls-key` are given; unlike it, flags that
would have no effect for that reason are rejected, since a server meant to be private would be open.
"""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass

from ocspd.errors import ConfigError
from ocspd.inputs import tls_key_password
from ocspd.pki.go_regexp import Pattern

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTLS:
    """The values of the flags; paths of PEM files, "" if not given."""

    certificate_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_cn: str = ""
    min_version: str = ""

    @property
    def enabled(self) -> bool:
        """Whether the server uses TLS."""
        return bool(self.certificate_file and self.key_file)

    def check(self) -> None:
        """Reject combinations of flags that would have no effect (ConfigError)."""
        if bool(self.certificate_file) != bool(self.key_file):
            raise ConfigError("-tls-cert and -tls-key must be given together")
        if not self.enabled and (self.client_ca_file or self.client_cn):
            raise ConfigError("-mutual-tls-ca and -mutual-tls-cn require -tls-cert and -tls-key")
        if self.client_cn and not self.client_ca_file:
            raise ConfigError("-mutual-tls-cn requires -mutual-tls-ca: otherwise clients send no certificate")

    def pattern(self) -> Pattern | None:
        """Return the expression to search for in the client's common name, or None."""
        if not self.client_cn:
            return None
        try:
            return Pattern(self.client_cn)
        except ConfigError as err:
            shown = self.client_cn[:200]
            raise ConfigError(f"-mutual-tls-cn {shown!r} is not a regular expression: {err}") from err

    def context(self) -> ssl.SSLContext | None:
        """Return the server context, None without TLS; ConfigError names the file that is unusable."""
        self.check()
        if not self.enabled:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        self._set_minimum(context)
        self.load(context)
        if self.client_ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca_file)
            except (OSError, ValueError) as err:
                raise ConfigError(
                    f"{self.client_ca_file}: not usable as CA certificates for clients: {err}"
                ) from err
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Load the certificate and key into a context, initially or after they were replaced on disk."""
        try:
            context.load_cert_chain(self.certificate_file, self.key_file, tls_key_password)
        except (OSError, ValueError) as err:
            files = f"{self.certificate_file}, {self.key_file}"
            raise ConfigError(f"{files}: not a usable TLS certificate and key: {err}") from err

    def _set_minimum(self, context: ssl.SSLContext) -> None:
        if not self.min_version:
            return
        if self.min_version not in _VERSIONS:
            raise ConfigError(f"-min-tls-version {self.min_version!r}: use one of {', '.join(_VERSIONS)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 1.0 and 1.1 are what was asked for
            context.minimum_version = _VERSIONS[self.min_version]
