"""Objects under a URL: the few operations an index needs from a store, each with limits of time and size.

    file:///directory        a directory, say on a network file system
    s3://bucket/prefix       also MinIO, Ceph and other stores with that API (AWS_ENDPOINT_URL)
    gs://bucket/prefix
    az://container/prefix
    https://host/path        read-only: a static site or CDN in front of one of the others

Credentials and options come from the environment variables that the store's own tools read, never from
the URL, which appears in logs and metrics. This is the only module that imports obstore.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError, NotModifiedError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store

from ocspd.errors import ConfigError, IndexFileError
from ocspd.tasks import time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence

T = TypeVar("T")

CONCURRENCY = 4
"""Concurrent transfers."""
_REQUEST_S = 30.0
"""A small request, retries included; also the longest pause inside a download."""
_CONNECT = timedelta(seconds=5)
_STALLED = timedelta(seconds=60)  # an upload is cut into parts that must each arrive within it
_WHOLE = timedelta(days=1)  # of a transfer: the limit that counts is on its pauses
_RETRIES = 3
_PIECE_BYTES = 1 << 20
_PART_BYTES = 5 << 20  # the smallest part S3 takes
_PARTS = 9_000  # S3 takes 10 000
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
_KINDS: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}


class MissingObjectError(IndexFileError):
    """There is no object of that name."""


class ObjectStore(Protocol):
    """What an index needs of a store. Every method raises IndexFileError when the store refuses."""

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        ...

    @property
    def writable(self) -> bool:
        """Whether one can publish here."""
        ...

    def check(self) -> None:
        """Find settings that cannot work before anything is contacted; ConfigError names them."""
        ...

    def create(self) -> None:
        """Make the place, where that is not its owner's affair."""
        ...

    async def read(
        self, name: str, *, limit: int, unless: str | None = None
    ) -> tuple[bytes, str | None] | None:
        """Return a small object and its ETag; None when the ETag is still `unless`.

        MissingObjectError when there is none; IndexFileError when it has more than `limit` bytes.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None when there is no such object."""
        ...

    def stream(self, name: str, offset: int = 0) -> AsyncGenerator[memoryview, None]:
        """Yield an object's bytes from `offset` on."""
        ...

    async def write(self, name: str, content: bytes | Path) -> None:
        """Store an object in one step."""
        ...

    async def names(self) -> list[str]:
        """List the objects directly under the URL."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...


class RemoteStore:
    """The objects under one URL. Every method raises IndexFileError naming the URL when the store fails."""

    def __init__(self, url: str) -> None:
        """Take a URL; ConfigError when ocspd supports no store of this kind. Nothing is contacted yet."""
        self.url = url.rstrip("/") if not url.endswith("//") else url
        parts = urlsplit(url)
        self._scheme, self._host, self._path = parts.scheme, parts.netloc, unquote(parts.path)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"{parts.scheme}://{parts.hostname}{parts.path}: remove user, query and fragment from the "
                "URL; credentials are read from the environment"
            )
        match self._scheme:
            case "s3" | "gs" | "az":
                if not parts.netloc:
                    what = "container" if self._scheme == "az" else "bucket"
                    raise ConfigError(f"{url}: no {what} given; write {self._scheme}://{what}/prefix")
            case "file":
                if parts.netloc not in {"", "localhost"} or not self._path.startswith("/"):
                    raise ConfigError(f"{url}: write file:///absolute/path")
            case "https" if parts.netloc:
                pass
            case "http" if parts.hostname in _LOOPBACK:
                pass  # what does not leave the machine needs no TLS
            case "http":
                raise ConfigError(f"{url}: an index can only be pulled over https://")
            case _:
                raise ConfigError(f"{url}: use file://, s3://, gs://, az:// or https://")
        self._opened: Any = None

    @property
    def writable(self) -> bool:
        """Whether it is possible to publish here."""
        return self._scheme not in {"http", "https"}

    def check(self) -> None:
        """Check the settings without contacting anything; ConfigError names those that cannot work."""
        if self._scheme != "file":
            self._store()

    def create(self) -> None:
        """Create the directory of a file:// URL; buckets are created by their owners."""
        with self._translated(""):
            self._store(create=True)

    async def read(
        self, name: str, *, limit: int, unless: str | None = None
    ) -> tuple[bytes, str | None] | None:
        """Return a small object and its ETag; None when the ETag is still `unless`.

        MissingObjectError when there is none; IndexFileError when it has more than `limit` bytes.
        """
        options: Any = {"if_none_match": unless} if unless else {}
        with self._translated(name):
            try:
                async with time_limit(_REQUEST_S):
                    result = await obstore.get_async(self._store(), name, options=options)
                    if result.meta["size"] > limit:
                        raise IndexFileError(f"{self.url}/{name}: larger than {limit} bytes")
                    return bytes(await result.bytes_async()), result.meta["e_tag"]
            except NotModifiedError:
                return None

    async def size(self, name: str) -> int | None:
        """Return an object's size in bytes; None when there is no such object."""
        with self._translated(name):
            try:
                return (await self._soon(obstore.head_async(self._store(), name)))["size"]
            except (FileNotFoundError, NotFoundError):
                return None

    async def stream(self, name: str, offset: int = 0) -> AsyncGenerator[memoryview, None]:
        """Yield an object's bytes from `offset` on, in pieces of about 1 MiB."""
        options: Any = {"range": {"offset": offset}} if offset else {}
        with self._translated(name):
            result = await self._soon(obstore.get_async(self._store(), name, options=options))
            pieces = aiter(result.stream(min_chunk_size=_PIECE_BYTES))
            while True:
                try:
                    piece = await self._soon(anext(pieces))
                except StopAsyncIteration:
                    return
                yield memoryview(piece)

    async def write(self, name: str, content: bytes | Path) -> None:
        """Store an object in one step; a file is sent in parts, from disk."""
        with self._translated(name):
            store = self._store()
            if isinstance(content, bytes):
                await self._soon(obstore.put_async(store, name, content))
                return
            part = max(_PART_BYTES, (await asyncio.to_thread(content.stat)).st_size // _PARTS)
            async with time_limit(_WHOLE.total_seconds()):
                await obstore.put_async(store, name, content, chunk_size=part, max_concurrency=CONCURRENCY)

    async def names(self) -> list[str]:
        """List the objects directly under the URL."""
        found: list[str] = []
        with self._translated(""):
            listing = aiter(obstore.list(self._store(), chunk_size=1000))
            while True:
                try:
                    found += [entry["path"] for entry in await self._soon(anext(listing))]
                except StopAsyncIteration:
                    return [name for name in found if "/" not in name]

    async def delete(self, names: Sequence[str]) -> None:
        """Remove objects; a missing one is not an error."""
        with self._translated(""):
            for name in names:
                with contextlib.suppress(FileNotFoundError, NotFoundError):
                    await self._soon(obstore.delete_async(self._store(), name))

    async def _soon(self, request: Awaitable[T]) -> T:
        async with time_limit(_REQUEST_S):
            return await request

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn the store's errors into ours."""
        object_url = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except (FileNotFoundError, NotFoundError) as err:
            raise MissingObjectError(f"{object_url}: no such object ({_why(err)})") from err
        except TimeoutError as err:
            raise IndexFileError(
                f"{object_url}: the store did not respond within {_REQUEST_S:.0f} s"
            ) from err
        except (BaseError, OSError) as err:
            raise IndexFileError(f"{object_url}: the store cannot be used ({_why(err)})") from err

    def _store(self, *, create: bool = False) -> Any:
        """Return the store, which is created on first use: a directory may be mounted later."""
        if self._opened is None:
            self._opened = self._open(create=create)
        return self._opened

    def _open(self, *, create: bool) -> Any:
        if self._scheme == "file":
            return LocalStore(Path(self._path), mkdir=create)
        options: Any = {"connect_timeout": _CONNECT, "read_timeout": _STALLED, "timeout": _WHOLE}
        retries: Any = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=_REQUEST_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }
        try:
            if self._scheme in {"http", "https"}:
                options["allow_http"] = self._scheme == "http"
                return HTTPStore.from_url(self.url, client_options=options, retry_config=retries)
            options |= _from_environment(_PREFIXES[self._scheme])
            prefix = self._path.strip("/") or None
            return _KINDS[self._scheme](
                self._host, prefix=prefix, client_options=options, retry_config=retries
            )
        except (BaseError, ValueError) as err:
            raise ConfigError(f"{self.url}: {_why(err)}; see the store's environment variables") from err


def _from_environment(prefix: str) -> dict[str, Any]:
    """Return the client settings that obstore ignores when it is also given time limits."""
    found: dict[str, Any] = {}
    if os.environ.get(f"{prefix}_ALLOW_HTTP", "").lower() in {"1", "true", "yes"}:
        found["allow_http"] = True
    for name in ("proxy_url", "proxy_excludes"):
        if value := os.environ.get(f"{prefix}_{name.upper()}"):
            found[name] = value
    if bundle := os.environ.get(f"{prefix}_CA_BUNDLE"):
        try:
            found["root_certificate"] = Path(bundle).read_bytes()
        except OSError as err:
            raise ConfigError(f"{prefix}_CA_BUNDLE: {bundle}: {err.strerror}") from err
    return found


def _why(error: Exception) -> str:
    """Return the useful part of a store's error; the rest is a dump of its data structures."""
    text = str(error)
    for pattern in (
        r"<Code>(\w+)</Code>",
        r"status code: (\d{3}[A-Za-z ]*)",
        r'(?:message|error): "([^"\n]{1,200})',
        r"kind: (TimedOut|Timeout)",
    ):
        if found := re.findall(pattern, text):
            return str(found[-1]).strip()
    line = text.partition("\n")[0].removeprefix("Generic ")
    return re.sub(r"\?\S*|https?://\S*", "…", line)[:200]
