"""Data in S3, read as it comes; an answer that was cut goes on where it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artstore.errors import Damaged, Unavailable
from artstore.ids import Key
from artstore.spi import PIECE, Span
from artstore_objects.store import Stored
from artstore_s3.client import Client, Lost, Refusal, unavailable

_CUTS = 4
"""Cuts in a row without a byte between them, after which we give up."""


class S3Reader:
    """One object, as it was when it was opened."""

    path: str | None = None

    def __init__(self, client: Client, name: str, found: Stored, key: Key) -> None:
        self._client = client
        self._name = name
        self._tag = found.tag
        self._key = key
        self.size = found.size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, end = span.offset, span.offset + span.length
        cuts = 0
        while offset < min(end, self.size):
            body = self._open(offset, min(end, self.size))
            try:
                while True:
                    piece = self._client.within(lambda body=body: _fill(body))  # type: ignore[misc]
                    if not piece:
                        break
                    offset += len(piece)
                    cuts = 0
                    yield piece
            except Lost as e:
                reason = unavailable(e, self._key)
            else:
                reason = Unavailable(f"S3 does not answer at {self._key}: the answer was cut short.")
            finally:
                body.close()
            cuts += 1
            if cuts > _CUTS:
                raise reason
        if offset < end:
            raise Damaged(f"The data of {self._key} ends at {self.size}, before it should.")

    def _open(self, offset: int, end: int) -> Any:
        try:
            return self._client.call(
                "get_object", Key=self._name, Range=f"bytes={offset}-{end - 1}", IfMatch=self._tag
            )["Body"]
        except (Refusal, Lost) as e:
            if isinstance(e, Refusal) and e.status in (404, 412):
                raise Unavailable(f"The data of {self._key} went away while it was read.") from None
            raise unavailable(e, self._key) from None

    def close(self) -> None:
        """Each answer was closed where it was read."""


async def _fill(body: Any) -> bytes:
    """The next piece, as long as pieces may be; chunks come as the network made them."""
    chunks: list[bytes] = []
    left = PIECE
    while left and (chunk := await body.read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
