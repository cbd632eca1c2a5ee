"""Reads data from S3 while it arrives. After an answer that was cut off, it asks for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artstore.errors import ArtstoreError, Damaged, Unavailable
from artstore.ids import Key
from artstore.spi import PIECE, Reader, Span
from artstore_objects.store import ObjectInfo
from artstore_s3.client import Client, Lost, Refusal, translate

_CUT_LIMIT = 4
"""Answers in a row that are cut off without a byte before the reader fails."""


class S3Reader(Reader):
    """One object, unchanged since it was opened: each request names its etag."""

    path: str | None = None

    def __init__(self, client: Client, name: str, info: ObjectInfo, key: Key) -> None:
        self._client = client
        self._name = name
        self._etag = info.etag
        self._key = key
        self.size = info.size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, end = span.offset, span.offset + span.length
        cuts = 0
        reason: ArtstoreError
        while offset < min(end, self.size):
            body = self._open(offset, min(end, self.size))
            try:
                while True:
                    piece = self._client.run(lambda body=body: _read_piece(body))  # type: ignore[misc]
                    if not piece:
                        break
                    offset += len(piece)
                    cuts = 0
                    yield piece
            except Lost as e:
                reason = translate(e, self._key)
            else:
                reason = Unavailable(f"S3 does not answer at {self._key}: the answer was cut short.")
            finally:
                body.close()
            cuts += 1
            if cuts > _CUT_LIMIT:
                raise reason
        if offset < end:
            raise Damaged(f"The data of {self._key} ends at {self.size}, before it should.")

    def _open(self, offset: int, end: int) -> Any:
        try:
            return self._client.call(
                "get_object", Key=self._name, Range=f"bytes={offset}-{end - 1}", IfMatch=self._etag
            )["Body"]
        except (Refusal, Lost) as e:
            if isinstance(e, Refusal) and e.status in (404, 412):
                raise Unavailable(f"The data of {self._key} was removed while it was read.") from None
            raise translate(e, self._key) from None

    def close(self) -> None:
        """Do nothing: `pieces` closes each answer."""


async def _read_piece(body: Any) -> bytes:
    """Return the next `PIECE` bytes, or fewer at the end. The network delivers chunks of any size."""
    chunks: list[bytes] = []
    left = PIECE
    while left and (chunk := await body.read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
