"""The parts of words that an index can hold, for databases without one of their own that knows every script."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

LONGEST = 3


def all_codes(text: str) -> list[int]:
    """One, two and three letters, as they follow each other in `text`; as numbers, which are small to keep.

    Two may share a number: what an index finds by them is looked at again.
    """
    return _numbers(text[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(text) - n + 1))


def covering_trigrams(word: str) -> list[str]:
    """Parts of three letters, or a shorter word itself, in which each letter of `word` is.

    Those between them would hardly find less: a part costs as much as what it is found in is common.
    """
    n = min(LONGEST, len(word))
    return [word[i : i + n] for i in sorted({*range(0, len(word) - n + 1, n), len(word) - n})]


def selective_trigrams(word: str) -> list[str]:
    """The same parts, those first that are likely in the fewest texts: the last digits."""
    parts = covering_trigrams(word)
    digits = [part for part in reversed(parts) if any(letter.isdigit() for letter in part)]
    return list(dict.fromkeys([*digits, *parts]))


def trigram_codes(word: str, most: int | None = None) -> list[int]:
    """What every text that holds `word` has among its all_codes; `most` of it."""
    return _numbers(selective_trigrams(word)[:most])


def _numbers(parts: Iterable[str]) -> list[int]:
    return [crc32(part.encode()) - (1 << 31) for part in sorted(set(parts))]
