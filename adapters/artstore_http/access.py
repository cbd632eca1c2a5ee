"""The access log: one line for each request, written when the last byte of its answer was handed to the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from artstore_http.message import Request, Response, Stream

log = logging.getLogger("artstore.access")


class AccessLine:
    """The line of one request: id, method, path, status, bytes received and sent, duration, client, user."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._started = time.perf_counter()
        self._written = False

    def duration(self) -> float:
        """Return the seconds since the request began."""
        return time.perf_counter() - self._started

    def write_after(self, response: Response, received: int, caller: str) -> None:
        """Write the line once: now for a body in memory, which the server sends, else when the stream is closed."""

        def write(sent: int) -> None:
            if self._written:  # a stream that failed before its first byte was replaced by a problem
                return
            self._written = True
            log.info(
                "%s %s %s %d %dB %dB %.1fms %s %s",
                self._request_id, self._request.method, _printable(self._request.path), response.status,
                received, sent, self.duration() * 1000, self._request.client, caller,
            )  # fmt: skip

        if isinstance(response.body, bytes):
            write(len(response.body))
        else:
            response.body = _CountedStream(response.body, write)


class _CountedStream(Stream):
    """A stream that reports at its end how many bytes were sent of it."""

    def __init__(self, stream: Stream, on_close: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_close = on_close
        self._sent: int | None = None
        self.size = stream.size
        self.path = stream.path

    def pieces(self) -> Iterator[bytes]:
        self._sent = 0
        for piece in self._stream.pieces():
            self._sent += len(piece)
            yield piece

    def close(self) -> None:
        self._stream.close()
        # A server that sends the file itself does not tell how far it came.
        self._on_close(self.size if self._sent is None else self._sent)


def _printable(path: str) -> str:
    """Return a path that cannot forge a line of the log."""
    return path if path.isascii() and path.isprintable() and len(path) <= 200 else ascii(path[:200])
