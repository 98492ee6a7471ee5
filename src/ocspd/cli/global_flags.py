"""The flags that every verb accepts: CFSSL has one table for all of them, so scripts rely on it.

A verb's help lists only its own subset. Flags that CFSSL registers but never reads are here too: a script
that uses one must not fail. Flags of one verb only belong to that verb (`Verb.flags`), not here.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from ocspd import limits
from ocspd.cli.flags import Flag, boolean, duration, integer, string

_FLAGS = (
    string("hostname", "Hostname for the cert, could be a comma-separated hostname list"),
    string("cert", "Client certificate that contains the public key"),
    string("csr", "Certificate signature request file for new public key"),
    string("ca", "CA used to sign the new certificate -- accepts '[file:]fname' or 'env:varname'"),
    string("ca-key", "CA private key -- accepts '[file:]fname' or 'env:varname'"),
    string("tls-cert", "certificate of this server, to serve HTTPS"),
    string("tls-key", "private key of -tls-cert"),
    string("mutual-tls-ca", "Mutual TLS - require clients be signed by this CA"),
    string("mutual-tls-cn", "Mutual TLS - regex for whitelist of allowed client CNs"),
    string("tls-remote-ca", "CAs to trust for remote TLS requests"),
    string(
        "mutual-tls-client-cert",
        "Mutual TLS - client certificate to call remote instance requiring client certs",
    ),
    string("mutual-tls-client-key", "Mutual TLS - client key to call remote instance requiring client certs"),
    string("key", "private key for the certificate"),
    string("intermediates", "intermediate certs (not used)"),
    string("ca-bundle", "path to root certificate store"),
    string("int-bundle", "path to intermediate certificate store"),
    string("address", "Address to bind", "127.0.0.1"),
    integer("port", "Port to bind", 8888, limits=limits.PORT),
    string("min-tls-version", "oldest TLS version to accept: 1.0, 1.1, 1.2 or 1.3 (default: 1.2)"),
    string("config", "path to configuration file"),
    string("profile", "signing profile to use"),
    boolean("initca", "initialise new CA"),
    boolean("renewca", "re-generate a CA certificate from existing CA certificate/key"),
    string("int-dir", "specify intermediates directory"),
    string("flavor", "Bundle Flavor: ubiquitous, optimal and force.", "ubiquitous"),
    string(
        "metadata", "Metadata file of platforms: a JSON list of {name, weight, hash_algo, key_algo, keystore}"
    ),
    string("domain", "remote server domain name"),
    string("ip", "remote server ip"),
    string("remote", "remote CFSSL server"),
    string("label", "key label to use in remote CFSSL server"),
    string("authkey", "key to authenticate requests to remote CFSSL server (not used)"),
    string("responder", "Certificate for OCSP responder"),
    string("responder-key", "private key for OCSP responder certificate"),
    string("status", "Status of the certificate: good, revoked, unknown", "good"),
    string("reason", "Reason code for revocation", "0"),
    string("revoked-at", "Date of revocation (YYYY-MM-DD)", "now"),
    duration(
        "interval",
        "how long a response is valid (default: 96h)",
        timedelta(hours=96),
        limits=limits.VALIDITY,
    ),
    boolean("list", "list possible scanners"),
    string("family", "scanner family regular expression"),
    string("scanner", "scanner regular expression"),
    duration(
        "timeout",
        "duration (ns, us, ms, s, m, h) to scan each host before timing out",
        timedelta(minutes=5),
        limits=limits.SCAN_TIMEOUT,
    ),
    string("csv", "file containing CSV of hosts"),
    integer("num-workers", "number of workers to use for scan", 10, limits=limits.SCAN_WORKERS),
    integer("max-hosts", "maximum number of hosts to scan", 100, limits=limits.SCAN_HOSTS),
    string("responses", "file to load OCSP responses from"),
    string("path", "Path on which the server will listen", "/"),
    string("crl", "CRL URL Override"),
    string("password", "Password for accessing PKCS #12 data passed to bundler", "0"),
    string("usage", "usage of private key (not used)"),
    string("pgp-private", "file to load a PGP Private key decryption (not used)"),
    string("pgp-name", "PGP public key name (not used)"),
    string("serial", "certificate serial number"),
    string("aki", "certificate issuer (authority) key identifier"),
    string("cn", "certificate common name (CN)"),
    string("db-config", "certificate db configuration file"),
    duration(
        "expiry",
        "time from now after which the CRL will expire (default: one week)",
        timedelta(hours=168),
        limits=limits.CRL_EXPIRY,
    ),
    integer("loglevel", "Log level (0 = DEBUG, 5 = FATAL)", 1, limits=limits.LOGLEVEL),
    string("disable", "endpoints to disable"),
)

GLOBAL_FLAGS: dict[str, Flag] = {flag.name: replace(flag, cfssl=True) for flag in _FLAGS}
"""By name, in CFSSL's order."""
