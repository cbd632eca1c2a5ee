"""Ids: UUIDv7 (RFC 9562, 5.7), so that an id tells when, and hence where, its file was made."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime

from artstore.errors import InvalidField


def uuid7(at: datetime) -> str:
    """A new id for the millisecond of `at`; 74 of its bits are random."""
    value = int(at.timestamp() * 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def parse_id(text: str) -> str:
    """An id as a caller wrote it, in its one form: lower case, with hyphens. Raises `InvalidField`."""
    if len(text) == 36:
        try:
            canonical = str(uuid.UUID(text))
        except ValueError:
            pass
        else:
            if canonical == text.lower():
                return canonical
    raise InvalidField("file_id", "A file id is a UUID, like 0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4.")


def now() -> datetime:
    """The clock, cut to the millisecond that ids and sidecars keep."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
