"""Fetches one small document by HTTP: bounded in size and in time, and from the server that was named alone."""

from __future__ import annotations

import io
import socket
import threading
import time
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import IO, Any, cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    Request,
    build_opener,
)

MAX_DOCUMENT = 1 << 20
"""Bytes of the document."""


class _Deadline:
    """The end of one fetch. A server that sends byte by byte never exceeds the time-out of a socket."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises `TimeoutError`."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Return a socket that is connected to one of the addresses of a host. Raises `OSError`."""
        failure = OSError("it has no address")
        for family, kind, protocol, _name, found in self._resolve(address):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self.left())
                connection.connect(found)
                connection.settimeout(self.left())  # for the handshake of TLS, which has this time in all
            except OSError as e:
                connection.close()
                failure = e
            else:
                return connection
        raise failure

    def _resolve(self, address: tuple[str, int]) -> list[Any]:
        """Return the addresses of a host. The look-up has a thread of its own: nothing else can end it in time."""
        answer: SimpleQueue[list[Any] | OSError] = SimpleQueue()

        def look_up() -> None:
            try:
                answer.put(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
            except OSError as e:
                answer.put(e)

        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        try:
            found = answer.get(timeout=self.left())
        except Empty:
            raise TimeoutError("the look-up of its name timed out") from None
        if isinstance(found, OSError):
            raise found
        return found


class _TimedReader(io.RawIOBase):
    """Reads from a socket until the deadline, however little comes at a time."""

    def __init__(self, connection: socket.socket, raw: io.RawIOBase, deadline: _Deadline) -> None:
        self._connection = connection
        self._raw = raw
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._deadline.left())
        return cast("int | None", self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """A response whose head and body come before the deadline."""

    def __init__(self, deadline: _Deadline, sock: socket.socket, **named: Any) -> None:
        super().__init__(sock, **named)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach(), deadline))


def _timed(kind: type[HTTPConnection], deadline: _Deadline, host: str, **named: Any) -> HTTPConnection:
    """Return a connection that ends with the deadline, its look-up, handshake and head included."""
    connection: Any = kind(host, **named)
    connection._create_connection = deadline.connect  # as urllib3 does: there is no public way
    connection.response_class = partial(_Response, deadline)
    return cast("HTTPConnection", connection)


class _Http(HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPConnection, self._deadline), req)


class _Https(HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_timed, HTTPSConnection, self._deadline), req)


class _SameServer(HTTPRedirectHandler):
    """Follows a redirect to another path alone: keys of another server are keys that the operator did not name."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if _server(newurl) != _server(req.full_url):
            raise HTTPError(req.full_url, code, "it redirects to another server", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            raise HTTPError(req.full_url, code, "it redirects to what is no URL", headers, fp) from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _server(url: str) -> tuple[str, str | None, int | None, str | None]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname,
        parts.port or {"http": 80, "https": 443}.get(parts.scheme),
        parts.username,
    )


def fetch(url: str, timeout: float) -> bytes:
    """Return the body at `url`. Raises `OSError` or `ValueError`, whose text says why there is none.

    `timeout` is for the whole: look-up, connection, redirects, head and body.
    """
    accept = "application/jwk-set+json, application/json"
    request = Request(url, headers={"Accept": accept, "User-Agent": "artstore"})  # noqa: S310 - see JwtSettings
    deadline = _Deadline(timeout)
    body = bytearray()
    try:
        opener = build_opener(_Http(deadline), _Https(deadline), _SameServer)
        with opener.open(request) as response:
            while piece := response.read1(65536):
                body += piece
                if len(body) > MAX_DOCUMENT:
                    raise ValueError(f"{url} is larger than 1 MiB")
            if response.length:
                raise ConnectionError(f"{url} was cut short")
    except HTTPError as e:
        e.close()
        # The text comes from the server, and it goes into a log.
        raise ConnectionError(f"{url} answered {e.code} {ascii(e.reason[:64])[1:-1]}") from None
    except HTTPException as e:
        raise ConnectionError(f"{url} gave no valid answer ({type(e).__name__})") from None
    except TimeoutError:
        raise ConnectionError(f"{url} cannot be fetched: it timed out after {timeout:g} s") from None
    except OSError as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, TimeoutError):
            reason = f"it timed out after {timeout:g} s"
        raise ConnectionError(f"{url} cannot be fetched: {reason}") from None
    return bytes(body)
