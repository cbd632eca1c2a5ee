"""Ids: UUIDv7 (RFC 9562, 5.7), so that an id tells the time, and so the directory, of its file."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from typing import NewType

from artstore.errors import InvalidField

FileId = NewType("FileId", str)
"""The id of a file: a UUID in lower case, with hyphens."""
Key = NewType("Key", str)
"""Where a file lies in a backend: directory and filename, joined by `/`."""


def uuid7(at: datetime) -> FileId:
    """Return a new id for the millisecond of `at`. 74 of its bits are random."""
    # Rounded: a truncated float could be a millisecond less, and tell another hour than the directory.
    millis = round(at.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10)) & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{millis << 80 | random:032x}"
    return FileId(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")


def parse_id(text: str, name: str = "file_id") -> FileId:
    """Return the id that a caller wrote, in lower case with hyphens. Raises `InvalidField` (of the field `name`)."""
    if len(text) == 36:
        try:
            canonical = str(uuid.UUID(text))
        except ValueError:
            pass
        else:
            if canonical == text.lower():
                return FileId(canonical)
    raise InvalidField(name, f"{name}: must be a UUID, like 0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4.")


def now() -> datetime:
    """Return the present time, in whole milliseconds: ids and sidecars keep no more."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
