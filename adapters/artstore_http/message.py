"""Requests and responses as values: an adapter makes a `Request` of what arrived, and sends the `Response`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol
from urllib.parse import parse_qsl

from artstore.errors import MalformedRequest
from artstore.spi import PIECE

Headers = list[tuple[str, str]]

_BROKEN_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The head of a request. `path` is percent-decoded, `query` is bytes as Latin-1; header names are in lower case.

    A value with bytes beyond ASCII is read as empty: no field that we read may have them, and granian's WSGI shows such
    a value as empty, so that no adapter can answer otherwise.
    """

    method: str
    path: str
    query: str
    headers: Headers
    root_path: str = ""
    """The path below which the server shows the app. An `Exchange` cuts it off `path`; links begin with it."""
    version: str = "1.1"
    """Of HTTP."""
    client: str = "-"
    """The address of the peer that sent the request; "-" when the server does not know it."""
    detects_cut_chunks: bool
    """Whether this server shows the difference between a chunked body that was cut and one that ended."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", [(n, v if v.isascii() else "") for n, v in self.headers])

    @cached_property
    def _by_name(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.headers:
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def header(self, name: str) -> str | None:
        """Return the value of a header field (name in lower case), repeated ones joined by commas; None when absent."""
        return self._by_name.get(name)

    @cached_property
    def parameters(self) -> dict[str, list[str]]:
        """Return the decoded query: the values of each name. Raises `MalformedRequest`."""
        if not self.query:
            return {}
        try:
            if _BROKEN_PERCENT.search(self.query):
                raise ValueError
            # Characters that the client did not escape arrive as bytes of UTF-8.
            query = self.query.encode("latin-1").decode("utf-8")
            pairs = parse_qsl(
                query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=100
            )
        except ValueError:
            raise MalformedRequest("The query must be name=value pairs in percent-encoded UTF-8.") from None
        found: dict[str, list[str]] = {}
        for name, value in pairs:
            found.setdefault(name, []).append(value)
        return found

    @cached_property
    def length(self) -> int | None:
        """Return Content-Length in bytes, or None. Raises `MalformedRequest`."""
        text = self.header("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise MalformedRequest("Content-Length must be a number of bytes.")
        return int(text)

    @property
    def media_type(self) -> str:
        """Return Content-Type without parameters, in lower case; "" when absent."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def encoded(self) -> bool:
        """Whether Content-Encoding names anything but `identity`. An empty one counts: it may be one beyond ASCII."""
        value = self.header("content-encoding")
        return value is not None and value.strip().lower() != "identity"

    @property
    def needs_host(self) -> bool:
        """Whether the version of HTTP demands a Host field (RFC 9112, 3.2)."""
        return self.version not in ("1", "1.0", "0.9")

    @property
    def chunked(self) -> bool:
        return self.header("transfer-encoding") is not None

    @property
    def small(self) -> bool:
        """Whether the body fits into one piece, and the client sends it without waiting for `100 Continue`."""
        text = self.header("content-length") or ""
        announced = int(text) if text.isascii() and text.isdigit() and len(text) <= 8 else PIECE + 1
        return announced <= PIECE and self.header("expect") is None


class Stream(Protocol):
    """The body of a response that is not in memory."""

    size: int
    """Bytes."""
    path: str | None
    """A file whose whole content is the body, for servers that send files themselves; else None."""

    def pieces(self) -> Iterable[bytes]:
        """Yield the bytes in pieces of at most 1 MiB."""

    def close(self) -> None:
        """Release all resources. A second call has no effect."""


@dataclass(slots=True)
class Response:
    """An answer. The server adds Date, Server and Connection to `headers`."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | Stream = b""


class Receiver(Protocol):
    """Receives the body of one request. After an exception only `abort` may be called."""

    def feed(self, piece: bytes) -> None:
        """Process the next bytes."""

    def finish(self) -> Response:
        """Return the answer, after the whole body was fed."""

    def abort(self, reason: str) -> None:
        """Undo what was received, since the body will not be finished. No effect after `finish`. Never raises."""


class Pieces:
    """The pieces of a body as a server hands them over, small ones joined: each step behind costs the same for one byte
    as for a MiB, and a client chooses how it cuts its body."""

    SMALL = 4096
    """Bytes below which a piece is joined with its neighbours."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._small = bytearray()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if len(piece) < self.SMALL:
            self._small += piece
        else:
            self._join()
            self._pieces.append(piece)

    def all(self) -> list[bytes]:
        """Return what was added, in its order."""
        self._join()
        return self._pieces

    def _join(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()


class Collected:
    """Collects a small body in memory and passes it to `then`. Raises `too_large` above `limit` bytes."""

    def __init__(self, limit: int, too_large: Exception, then: Callable[[bytes], Response]) -> None:
        self._limit = limit
        self._too_large = too_large
        self._then = then
        self._body = bytearray()

    def feed(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > self._limit:
            raise self._too_large

    def finish(self) -> Response:
        return self._then(bytes(self._body))

    def abort(self, reason: str) -> None:
        self._body.clear()
