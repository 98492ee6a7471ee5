"""TLS to a remote CFSSL server: the flags that begin with tls-remote- and mutual-tls-client-."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ocspd.errors import ConfigError
from ocspd.inputs import tls_key_password


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTLS:
    """TLS settings for the remote server; paths of PEM files, "" if not given."""

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def context(self) -> ssl.SSLContext:
        """Return the client context; ConfigError names the file that cannot be used."""
        if bool(self.certificate_file) != bool(self.key_file):
            raise ConfigError("-mutual-tls-client-cert and -mutual-tls-client-key must be given together")
        context = self._trust()
        if self.certificate_file:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, tls_key_password)
            except (OSError, ValueError) as err:
                files = f"{self.certificate_file}, {self.key_file}"
                raise ConfigError(f"{files}: not a usable client certificate and key: {err}") from err
        return context

    def _trust(self) -> ssl.SSLContext:
        if not self.ca_file:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as err:
            raise ConfigError(f"{self.ca_file}: not usable as trusted CA certificates (PEM): {err}") from err
