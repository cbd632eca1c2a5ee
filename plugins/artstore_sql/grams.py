"""The parts of words that an index can hold, for databases without one of their own that knows every script."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

LONGEST = 3


def grams(text: str) -> list[int]:
    """One, two and three letters, as they follow each other in `text`; as numbers, which are small to keep.

    Two may share a number: what an index finds by them is looked at again.
    """
    return _numbers(text[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(text) - n + 1))


def probes(word: str) -> list[int]:
    """What every text that holds `word` has among its grams."""
    n = min(LONGEST, len(word))
    return _numbers(word[i : i + n] for i in range(len(word) - n + 1))


def _numbers(parts: Iterable[str]) -> list[int]:
    return [crc32(part.encode()) - (1 << 31) for part in sorted(set(parts))]
