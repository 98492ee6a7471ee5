"""The verb `bundle`: a certificate with its chain, as JSON without a newline at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocspd import wire
from ocspd.cli.io import read_stdin, write_stdout
from ocspd.cli.shared_flags import NO_AIA
from ocspd.cli.verb import Verb, no_more_arguments
from ocspd.errors import Code, CodedError, OCSPDError
from ocspd.inputs import naming, parse_key, read_file

if TYPE_CHECKING:
    from ocspd.authority.bundling import Bundler
    from ocspd.authority.bundling_result import Bundle
    from ocspd.cli.flags import Flags
    from ocspd.config import BundlerConfig


def _bundle(flags: Flags, arguments: list[str]) -> None:
    from ocspd.app import build_bundler  # noqa: PLC0415  (not needed for help)
    from ocspd.authority.bundling import FORCE  # noqa: PLC0415
    from ocspd.clock import SystemClock  # noqa: PLC0415

    no_more_arguments(arguments)
    flavor = flags.string("flavor")
    config = bundler_config(flags, allow_private=True, stores=flavor != FORCE)
    bundler = build_bundler(config, SystemClock())
    if flags.string("cert"):
        bundle = _local(flags, bundler, flavor)
    elif flags.string("domain"):
        bundle = bundler.bundle_remote(flags.string("domain"), flags.string("ip"), flavor)
    else:
        raise OCSPDError("Must specify bundle target through -cert or -domain")
    write_stdout(wire.dumps(bundle.to_json()))


def bundler_config(flags: Flags, *, allow_private: bool, stores: bool = True) -> BundlerConfig:
    """Return the settings of a bundler that flags give; without `stores` no file of theirs is read."""
    from ocspd.authority.bundling_stores import StoreFiles  # noqa: PLC0415  (not needed for help)
    from ocspd.config import BundlerConfig  # noqa: PLC0415

    names = ("ca-bundle", "int-bundle", "int-dir", "metadata")
    given = {name.replace("-", "_"): flags.string(name) for name in names if stores}
    return BundlerConfig(
        files=StoreFiles(**given),
        fetch_issuers=not flags.boolean(NO_AIA.name),
        allow_private=allow_private,
    )


def _local(flags: Flags, bundler: Bundler, flavor: str) -> Bundle:
    from ocspd.pki.bundle_input import read_bundle_input  # noqa: PLC0415  (not needed for help)
    from ocspd.pki.pem import blocks  # noqa: PLC0415

    name, key_name = flags.string("cert"), flags.string("key")
    # CFSSL has no password for standard input
    password = flags.string("password") if name != "-" or flags.was_set("password") else ""
    data = _read(name, Code.CERT_READ_FAILED)
    with naming(name):
        certificates, key = read_bundle_input(data, password.encode("utf-8", "surrogateescape"))
    key_data = b""
    if key_name == name == "-":  # standard input can be read once, so it may have both
        key_data = b"".join(block.text for block in blocks(data) if block.label.endswith("PRIVATE KEY"))
    elif key_name:
        key_data = _read(key_name, Code.KEY_READ_FAILED)
    if key_data or key_name not in {"", "-"}:
        key = parse_key(key_name, key_data)
    return bundler.bundle(certificates, key, flavor)


def _read(name: str, unreadable: Code) -> bytes:
    try:
        return read_stdin() if name == "-" else read_file(name)
    except OCSPDError as err:
        raise CodedError(unreadable, str(err)) from err


VERBS = (
    Verb(
        "bundle",
        """ocspd bundle -- create a certificate bundle that contains the client cert

Usage of bundle:
    - Bundle local certificate files
        ocspd bundle -cert file [-ca-bundle file] [-int-bundle file] [-int-dir dir] [-metadata file] \\
                     [-key keyfile] [-flavor optimal|ubiquitous|force] [-password password] [-no-aia]
    - Bundle certificate from remote server.
        ocspd bundle -domain domain_name [-ip ip_address] [-ca-bundle file] [-int-bundle file] \\
                     [-int-dir dir] [-metadata file] [-no-aia]""",
        (
            "cert",
            "key",
            "ca-bundle",
            "int-bundle",
            "flavor",
            "int-dir",
            "metadata",
            "domain",
            "ip",
            "password",
            NO_AIA,
        ),
        _bundle,
    ),
)
