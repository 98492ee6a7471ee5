"""A real S3 API on loopback, and a way to cut it off."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Bucket:
    """A bucket of a running server."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self.address, self.name = (host, port), name
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_REGION"],
        )
        self.client.create_bucket(Bucket=name)

    @property
    def url(self) -> str:
        return f"s3://{self.name}/an/index"

    def environment(self, address: tuple[str, int] | None = None) -> dict[str, str]:
        """Return the variables that lead to it, through a proxy at `address` if there is one."""
        host, port = address or self.address
        return KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true"}

    def names(self) -> set[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {entry["Key"].removeprefix("an/index/") for entry in found}

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"an/index/{name}", Body=data)

    def get(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=f"an/index/{name}")["Body"].read()
        return data

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"an/index/{name}")


@contextmanager
def bucket(name: str = "responses") -> Iterator[Bucket]:
    """Run a server with one empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Bucket(host, port, name)
    finally:
        server.stop()


class Proxy:
    """A TCP proxy that can be closed, which also ends its connections, and opened again at its port."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.address = ("127.0.0.1", 0)
        self.limit: int | None = None
        """Octets after which an answer is cut off."""
        self.cuts = 0

    def start(self) -> None:
        self._listener = socket.create_server(self.address)
        self.address = self._listener.getsockname()[:2]
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            _end(listener)
        while self._threads:
            for connection in list(self._open):
                _end(connection)
            self._threads[0].join(0.1)
            self._threads = [thread for thread in self._threads if thread.is_alive()]

    def _run(self, work: Callable[..., None], *words: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=words, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                self._run(self._relay, listener.accept()[0])

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            self._open |= {client, server}
            asking = self._run(self._copy, client, server, None)
            self._copy(server, client, self.limit)
            asking.join()
            self._open -= {client, server}

    def _copy(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        copied = 0
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                copied += len(data)
                if limit is not None and copied > limit:
                    self.cuts += 1
                    break
        _end(source)
        _end(sink)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(target: tuple[str, int]) -> Iterator[Proxy]:
    """Run a proxy."""
    running = Proxy(target)
    running.start()
    try:
        yield running
    finally:
        running.stop()
