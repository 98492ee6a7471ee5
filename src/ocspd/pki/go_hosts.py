"""Go's net/mail and net/url, as far as CFSSL uses them to tell e-mail addresses and URIs from names.

Only the part of both that decides this question and gives the text that goes into the certificate.
"""

from __future__ import annotations

import re

_ATEXT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")
_PATH_SAFE = _UNRESERVED | frozenset("$&+,/:;=@")
_PATH_KEPT = _PATH_SAFE | frozenset("!'()*[]%")
_HOST_SAFE = _UNRESERVED | frozenset("!$&'()*+,;=:[]<>\"")
_USER_SAFE = _UNRESERVED | frozenset("$&+,;=")
_FRAGMENT_SAFE = _PATH_SAFE | frozenset("?!()*")
_FRAGMENT_KEPT = _FRAGMENT_SAFE | frozenset("'[]%")
_USERINFO = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_PORT = re.compile(r"(?::[0-9]*)?")


class _Reader:
    """A position in a text that only moves forward; every method consumes text or raises ValueError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0

    @property
    def at_end(self) -> bool:
        return self.position == len(self._text)

    def sees(self, char: str) -> bool:
        """Whether the next character is this one."""
        return self._text.startswith(char, self.position)

    def skip_space(self) -> None:
        while self.sees(" ") or self.sees("\t"):
            self.position += 1

    def take(self, char: str) -> None:
        if not self.sees(char):
            raise ValueError(char)
        self.position += 1

    def next(self) -> str:
        if self.at_end:
            raise ValueError("nothing follows")
        self.position += 1
        return self._text[self.position - 1]

    def atom(self, *, dots: bool, permissive: bool = False) -> str:
        start = self.position
        while not self.at_end:
            char = self._text[self.position]
            if not (char in _ATEXT or ord(char) >= 0x80 or (dots and char == ".")):
                break
            self.position += 1
        atom = self._text[start : self.position]
        if not atom or (not permissive and (atom[0] == "." or atom[-1] == "." or ".." in atom)):
            raise ValueError("not an atom")
        return atom

    def quoted(self) -> str:
        self.take('"')
        text: list[str] = []
        while (char := self.next()) != '"':
            if char == "\\":
                char = self.next()
            if char not in " \t" and not char.isprintable():
                raise ValueError("a control character in a quoted-string")
            text.append(char)
        return "".join(text)

    def address(self) -> str:
        self.skip_space()
        if self.sees('"'):
            local = self.quoted()
            if not local:
                raise ValueError("empty quoted string")
        else:
            local = self.atom(dots=True)
        self.take("@")
        self.skip_space()
        return f"{local}@{self.atom(dots=True)}"

    def comments(self) -> None:
        self.skip_space()
        while self.sees("("):
            depth = 0
            while True:
                depth += {"(": 1, ")": -1}.get(self.next(), 0)
                if depth == 0:
                    break
            self.skip_space()


def email_address(text: str) -> str | None:
    """Return the address in an RFC 5322 address such as `Name <address>`; None for other text."""
    reader = _Reader(text)
    try:
        found = _plain_address(reader) or _named_address(reader)
        reader.comments()
    except ValueError:
        return None
    return found if reader.at_end else None


def _plain_address(reader: _Reader) -> str | None:
    start = reader.position
    try:
        return reader.address()
    except ValueError:
        reader.position = start
        return None


def _named_address(reader: _Reader) -> str:
    reader.skip_space()
    while not (reader.at_end or reader.sees("<")):
        if reader.sees('"'):
            reader.quoted()
        else:
            reader.atom(dots=True, permissive=True)
        reader.skip_space()
    reader.take("<")
    found = reader.address()
    reader.take(">")
    return found


def request_uri(text: str) -> str | None:
    """Return a text as url.ParseRequestURI and URL.String would write it, None when Go rejects it.

    Whatever begins with a scheme is accepted (`host:8080` too), and so are `*` and absolute paths.
    """
    try:
        return _url(text, via_request=True)[0] if text else None
    except ValueError:
        return None


def uri(text: str) -> str | None:
    """Return the URI of a subjectAltName as url.Parse and URL.String would write it.

    None when Go rejects it, as crypto/x509 also does if the host is not a domain name (RFC 5280 §4.2.1.6).
    """
    start, _, fragment = text.partition("#")
    try:
        shown, host = _url(start, via_request=False)
        if fragment:
            decoded = _unescape(fragment)
            kept = all(char in _FRAGMENT_KEPT for char in fragment)
            shown += "#" + (fragment if kept else _escape(decoded, _FRAGMENT_SAFE))
    except ValueError:
        return None
    labels = host.split(b".") if host else []
    if not all(label and all(32 < octet < 127 for octet in label) for label in labels):
        return None
    return shown


def uri_fields(text: str) -> dict[str, str | bool | dict[str, str] | None] | None:
    """Return the fields of Go's url.URL in its order, as its JSON encoder names them.

    None when `uri` rejects the text. User and password are hidden there: `{}`. Octets that are not UTF-8 are
    lone surrogates.
    """
    if uri(text) is None:
        return None
    whole, _, fragment = text.partition("#")
    match = _SCHEME.match(whole)
    scheme, rest = (match[1].lower(), whole[match.end() :]) if match else ("", whole)
    force_query = rest.endswith("?") and rest.count("?") == 1
    rest, _, query = rest.partition("?")
    opaque, user, host, omit_host = "", False, b"", False
    if scheme and not rest.startswith("/"):
        opaque, rest = rest, ""
    elif rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
        _, at, name = authority.rpartition("@")
        user, host = bool(at), _unescape_host(name)
    elif scheme:
        omit_host = True
    path_bytes = _unescape(rest)
    fragment_bytes = _unescape(fragment)
    return {
        "Scheme": scheme,
        "Opaque": opaque,
        "User": {} if user else None,
        "Host": host.decode("utf-8", "surrogateescape"),
        "Path": path_bytes.decode("utf-8", "surrogateescape"),
        "RawPath": "" if rest in {"*", _escape(path_bytes, _PATH_SAFE)} else rest,
        "OmitHost": omit_host,
        "ForceQuery": force_query,
        "RawQuery": query,
        "Fragment": fragment_bytes.decode("utf-8", "surrogateescape"),
        "RawFragment": "" if fragment == _escape(fragment_bytes, _FRAGMENT_SAFE) else fragment,
    }


def _url(text: str, *, via_request: bool) -> tuple[str, bytes]:
    """Return a URL without fragment as Go writes it, and its host with port; ValueError if it is not one."""
    if any(char < " " or char == "\x7f" for char in text):
        raise ValueError(text)
    if text == "*":
        return text, b""
    match = _SCHEME.match(text)
    scheme, rest = (match[1].lower(), text[match.end() :]) if match else ("", text)
    if not match and text[:1] == ":":
        raise ValueError(text)
    rest, question, query = rest.partition("?")
    suffix = question + query
    if not rest.startswith("/"):
        if scheme:
            return f"{scheme}:{rest}{suffix}", b""
        if via_request or ":" in rest.partition("/")[0]:
            raise ValueError(text)
        return _path(rest) + suffix, b""
    start = f"{scheme}:" if scheme else ""
    if rest.startswith("//") and (scheme or not (via_request or rest.startswith("///"))):
        authority, slash, path = rest[2:].partition("/")
        shown, host = _authority(authority)
        # URL.String leaves the slashes out when there is neither host nor user nor path
        slashes = "//" if shown or (slash and scheme) else ""
        return f"{start}{slashes}{shown}{_path(slash + path)}{suffix}", host
    return f"{start}{_path(rest)}{suffix}", b""


def _authority(authority: str) -> tuple[str, bytes]:
    """Return an authority as Go writes it, and the host and port of it."""
    userinfo, at, host = authority.rpartition("@")
    if at and not _USERINFO.fullmatch(userinfo):
        raise ValueError(userinfo)
    if host.startswith("["):
        end = host.rfind("]")
        if end < 0 or not _PORT.fullmatch(host[end + 1 :]):
            raise ValueError(host)
    elif ":" in host and not _PORT.fullmatch(host[host.rfind(":") :]):
        raise ValueError(host)
    decoded = _unescape_host(host)
    shown = _escape(decoded, _HOST_SAFE)
    if not at:
        return shown, decoded
    user, colon, password = userinfo.partition(":")
    return f"{_reescape(user)}{colon}{_reescape(password) if colon else ''}@{shown}", decoded


def _reescape(text: str) -> str:
    return _escape(_unescape(text), _USER_SAFE)


def _unescape_host(host: str) -> bytes:
    for char in host:
        if char < "\x80" and char not in _HOST_SAFE and char != "%":
            raise ValueError(host)
    for match in re.finditer(r"%(.{0,2})", host):
        # in a host only octets beyond ASCII may be escaped (and the % of a zone)
        if match[1] != "25" and not re.fullmatch(r"[89a-fA-F][0-9a-fA-F]", match[1]):
            raise ValueError(host)
    return _unescape(host)


def _path(path: str) -> str:
    decoded = _unescape(path)
    if all(char in _PATH_KEPT for char in path):
        return path
    return _escape(decoded, _PATH_SAFE)


def _unescape(text: str) -> bytes:
    out = bytearray()
    data = text.encode("utf-8", "surrogateescape")
    position = 0
    while position < len(data):
        if data[position] == 0x25:
            digits = data[position + 1 : position + 3]
            if len(digits) != 2 or not re.fullmatch(rb"[0-9a-fA-F]{2}", digits):
                raise ValueError(text)
            out.append(int(digits, 16))
            position += 3
        else:
            out.append(data[position])
            position += 1
    return bytes(out)


def _escape(data: bytes, safe: frozenset[str]) -> str:
    return "".join(chr(octet) if chr(octet) in safe else f"%{octet:02X}" for octet in data)
