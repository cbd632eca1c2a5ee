"""What comes in and what goes out, as values: an adapter makes the one and sends the other."""

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
    """The head of a request. `path` is percent-decoded, `query` is bytes as Latin-1; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Headers
    tells_cut_chunks: bool
    """Whether this server lets us tell a chunked body that was cut from one that ended."""

    @cached_property
    def _by_name(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.headers:
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def header(self, name: str) -> str | None:
        """The value of a field (lower case), several of them joined by commas; None when it did not come."""
        return self._by_name.get(name)

    @cached_property
    def parameters(self) -> dict[str, list[str]]:
        """The query, decoded. Raises `MalformedRequest`."""
        if not self.query:
            return {}
        try:
            if _BROKEN_PERCENT.search(self.query):
                raise ValueError
            # Letters that were not escaped arrived as bytes, in UTF-8.
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
        """Content-Length in bytes. Raises `MalformedRequest`."""
        text = self.header("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise MalformedRequest("Content-Length must be a number of bytes.")
        return int(text)

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, in lower case; "" when it did not come."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def chunked(self) -> bool:
        return self.header("transfer-encoding") is not None

    @property
    def small(self) -> bool:
        """Whether the body fits into one piece, and comes without a word from us."""
        text = self.header("content-length") or ""
        announced = int(text) if text.isascii() and text.isdigit() and len(text) <= 8 else PIECE + 1
        return announced <= PIECE and self.header("expect") is None


class Stream(Protocol):
    """A body that is not in memory."""

    size: int
    """Bytes."""
    path: str | None
    """A path whose whole content is the body, for servers that send files themselves."""

    def pieces(self) -> Iterable[bytes]:
        """The bytes, in pieces of at most 1 MiB."""

    def close(self) -> None:
        """Give everything back. Harmless twice."""


@dataclass(slots=True)
class Response:
    """An answer; `headers` are complete but for what servers add (Date, Server, Connection)."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | Stream = b""


class Receiver(Protocol):
    """What takes the body of one request. After an exception it is of no more use but for `abort`."""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> Response:
        """The body is over, and whole."""

    def abort(self, reason: str) -> None:
        """It will not be finished: leave nothing. Harmless after `finish`. Never raises."""


class Collected:
    """A small body, taken whole. Raises `TooLarge`-like refusals by `too_large` past `limit` bytes."""

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
