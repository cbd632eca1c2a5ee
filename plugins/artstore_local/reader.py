"""Data held open."""

from __future__ import annotations

import os
from collections.abc import Iterator

from artstore.errors import Damaged
from artstore.ids import Key
from artstore.spi import PIECE, Reader, Span
from artstore_local import disk


class LocalReader(Reader):
    """A data file held open."""

    def __init__(self, fd: int, key: Key, path: str) -> None:
        self._fd = fd
        self._key = key
        self.size = os.fstat(fd).st_size
        # Not /proc/self/fd/N: a server that opens the path too late would send whatever file N is by then.
        self.path: str | None = path

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with disk.translate_errors(self._key):
                piece = os.pread(self._fd, min(left, PIECE), offset)
            if not piece:
                raise Damaged(f"The data of {self._key} ends at {offset}, before it should.")
            yield piece
            offset += len(piece)
            left -= len(piece)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        disk.close(fd)
