"""What the first page of a database file says. SQLite is not asked: it would lock a foreign file, or write beside it.

A database of artstore has `APPLICATION_ID` in its header, where `PRAGMA application_id` writes it. It lies in the first
sector of the file, so damage to the rest leaves it readable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

APPLICATION_ID = 0x61727473
"""`arts` in ASCII."""
_MAGIC = b"SQLite format 3\0"
_ID = slice(68, 72)
_ROOT_TYPE = 100
_ROOT_CELLS = slice(103, 105)
_LEAF = 0x0D
_LENGTH = 105
"""Bytes of the page that are read."""
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_WAL_HEADER = 32
_FRAME_HEADER = 24


class FirstPage(NamedTuple):
    """What the first page of a database file and those in its WAL say."""

    is_database: bool
    """Whether SQLite may be able to read it."""
    is_marked: bool
    """Whether it has the id of artstore."""
    has_tables: bool


def read_first_page(path: Path) -> FirstPage:
    """Read the first page of a regular file, and its versions in the WAL. Raises `OSError`.

    Closing the file drops every lock that this process has on it: call it only while no connection is open to it.
    """
    pages = [_read(path, _LENGTH), *_pages_in_wal(path.with_name(f"{path.name}-wal"))]
    return FirstPage(
        is_database=pages[0].startswith(_MAGIC),
        is_marked=any(page[_ID] == APPLICATION_ID.to_bytes(4) for page in pages),
        has_tables=any(not _is_empty_root(page) for page in pages),
    )


def is_wal_marked(wal: Path) -> bool:
    """Return whether a WAL holds a first page with the id of artstore. Raises `OSError`."""
    return any(page[_ID] == APPLICATION_ID.to_bytes(4) for page in _pages_in_wal(wal))


def _is_empty_root(page: bytes) -> bool:
    """Return whether the page is the root of a schema without a table."""
    return len(page) == _LENGTH and page[_ROOT_TYPE] == _LEAF and page[_ROOT_CELLS] == b"\0\0"


def _pages_in_wal(wal: Path) -> Iterator[bytes]:
    """Yield what a WAL holds of the first page, oldest first. SQLite holds no POSIX lock on the WAL."""
    try:
        file = wal.open("rb", buffering=0)
    except FileNotFoundError:
        return
    with file:
        header = file.read(_WAL_HEADER)
        if len(header) < _WAL_HEADER or int.from_bytes(header[:4]) not in _WAL_MAGIC:
            return
        size, offset = int.from_bytes(header[8:12]) or 1, _WAL_HEADER
        while (
            len(frame := os.pread(file.fileno(), _FRAME_HEADER + _LENGTH, offset)) == _FRAME_HEADER + _LENGTH
        ):
            if int.from_bytes(frame[:4]) == 1:
                yield frame[_FRAME_HEADER:]
            offset += _FRAME_HEADER + size


def _read(path: Path, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(length)
