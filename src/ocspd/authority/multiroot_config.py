"""The file of multirootca's `-roots`: an INI file with a section for each CA, named by its label.

    [ primary ]
    private = file://primary-key.pem        file://DIR/FILE is relative, file:///DIR/FILE absolute
    certificate = primary.pem
    config = primary-config.json            a signing configuration of its own, with keys of its own
    nets = 10.0.0.0/8, 2001:db8::/32        who may use it; everybody without it
    dbconfig = db.json                      where its certificates are recorded; nowhere without it

CFSSL's rules: a label and a key consist of letters, digits and `_`; a value may be in quotes; `#` begins a
comment in the first column only; of one key in a section the last counts; keys before any section belong to
the section `default`. Stricter than CFSSL, which ignores unknown keys: one that resembles `nets` is
rejected, as the root would be open to everybody.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ocspd.errors import ConfigError
from ocspd.logs import logger
from ocspd.shown import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_SECTION = "default"
_SECTION = re.compile(r"\s*\[\s*(\w+)\s*\]\s*", re.ASCII)
_SETTING = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*", re.ASCII)
_QUOTED = re.compile(r"""["'](.*)["']""")
_KEYS = ("private", "certificate", "config", "nets", "dbconfig")
_RED_OCTOBER = ("ro_server", "ro_user", "ro_pass", "ro_ca")
_MISSING = {
    "private": "root is missing private key spec: write private = file://PATH",
    "certificate": "root is missing certificate path: write certificate = PATH",
    "config": "root is missing configuration file path: write config = PATH",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFiles:
    """What a section says: names of files, and who may use the CA (None: everybody)."""

    label: str
    private: str
    """A path, or a spec such as pkcs11:, as `inputs.read_key` takes it."""
    certificate: str
    config: str
    nets: tuple[Network, ...] | None = None
    db_config: str = ""

    def permits(self, address: str) -> bool:
        """Return whether a client with this IP address may use the CA."""
        if self.nets is None:
            return True
        try:
            client = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
        return any((mapped or client) in network for network in self.nets)


def parse_roots(data: bytes, name: str) -> dict[str, RootFiles]:
    """Read the file; ConfigError that names file, line or label, and the remedy."""
    sections = _sections(data.decode("utf-8", "replace"), name)
    if not sections:
        raise ConfigError(f"{name}: no CA: write a section such as [ primary ]")
    return {label: _root(label, settings, f"{name}: [{label}]") for label, settings in sections.items()}


def _sections(text: str, name: str) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#") or not line.strip():
            continue
        if section := _SECTION.fullmatch(line):
            current = sections.setdefault(section[1], {})
        elif setting := _SETTING.fullmatch(line):
            if current is None:
                current = sections.setdefault(DEFAULT_SECTION, {})
            quoted = _QUOTED.fullmatch(setting[2])
            current[setting[1]] = quoted[1] if quoted else setting[2]
        else:
            raise ConfigError(
                f"{name}: invalid config file: line {number} is neither [ label ], of letters, digits and _, "
                "nor key = value, nor a comment, which begins with # in the first column"
            )
    return sections


def _root(label: str, settings: dict[str, str], where: str) -> RootFiles:
    for key, what in _MISSING.items():
        if key not in settings:
            raise ConfigError(f"{where}: {what}")
    for key in settings:
        if key not in (*_KEYS, *_RED_OCTOBER):
            if difflib.get_close_matches(key.lower(), ["nets"]):
                raise ConfigError(f"{where}: unknown key {shown(key)}: did you mean nets?")
            logger.warning("%s: ignoring unknown key %s", where, shown(key))
    nets = settings.get("nets", "")
    return RootFiles(
        label=label,
        private=_key_spec(settings["private"], where),
        certificate=settings["certificate"],
        config=settings["config"],
        nets=_networks(nets.split(","), where) if nets else None,
        db_config=settings.get("dbconfig", ""),
    )


def _key_spec(spec: str, where: str) -> str:
    """Return what a URL names, as CFSSL does: the host is the first part of a relative path."""
    scheme = spec.partition(":")[0].lower()
    if scheme == "pkcs11":
        return spec
    if scheme == "file":
        try:
            parts = urlsplit(spec)
        except ValueError:  # a host in brackets that is not an address
            raise ConfigError(f"{where}: private is not a URL: write private = file://PATH") from None
        path = unquote(parts.path)
        if parts.netloc:
            path = str(PurePosixPath(parts.netloc, path.lstrip("/")))
        if path:
            return f"file:{path}"
    if scheme == "rofile":
        raise ConfigError(
            f"{where}: keys encrypted by Red October (rofile) are not supported: use file://PATH"
        )
    raise ConfigError(f"{where}: unsupported private key scheme: write private = file://PATH")


def _networks(texts: Sequence[str], where: str) -> tuple[Network, ...]:
    found = []
    for text in texts:
        try:
            if "/" not in text:
                raise ValueError  # noqa: TRY301  (the same text as for other mistakes)
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise ConfigError(
                f"{where}: nets: {shown(text.strip())!r} is not a network such as 192.0.2.0/24 or ::1/128"
            ) from None
    return tuple(found)
