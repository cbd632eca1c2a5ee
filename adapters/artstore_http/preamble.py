"""What may stand before the first part of a multipart body (RFC 2046, 5.1.1)."""

from __future__ import annotations

from artstore.errors import MalformedRequest

MAX_PREAMBLE = 65536
"""Bytes before the first delimiter."""
MAX_LINE = 8192
"""Bytes of one line before it."""


class Preamble:
    """Skips the text before the first delimiter, and the padding after that delimiter.

    MIME libraries write such a text. The parser of the form does not know it, so it never sees any.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._line = b""
        self._skipped = 0

    def feed(self, piece: bytes) -> bytes | None:
        """Return the body from the first delimiter on, without padding, or None when it has not come yet.

        Raises `MalformedRequest`.
        """
        text = self._line + piece
        start = 0
        while not text.startswith(self._delimiter + b"--", start):  # a form without parts
            end = text.find(b"\r\n", start)
            if end < 0:
                self._line = text[start:]
                self._check(len(self._line) - 1)  # a CR may be the first half of a line end
                return None
            self._check(end - start)
            if text[start:end].rstrip(b" \t") == self._delimiter:
                return self._delimiter + text[end:]
            self._skipped += end + 2 - start
            start = end + 2
        return text[start:]

    def _check(self, line_length: int) -> None:
        if line_length > MAX_LINE or self._skipped > MAX_PREAMBLE:
            raise missing_boundary()


def missing_boundary() -> MalformedRequest:
    """Return the refusal of a body in which no part begins."""
    return MalformedRequest(
        "The form is truncated, or no line of it is the boundary that Content-Type announces (lines must end in CRLF)."
    )
