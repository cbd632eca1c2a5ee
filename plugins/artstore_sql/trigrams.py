"""The n-grams of a text: what is indexed where the database has no index of its own for words of every script."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

LONGEST = 3


def all_codes(text: str) -> list[int]:
    """Return the codes of all sequences of one, two and three letters in `text`. Numbers are small to keep.

    Two sequences may share a code: each row that the index finds is compared with the words again.
    """
    return _numbers(text[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(text) - n + 1))


def covering_trigrams(word: str) -> list[str]:
    """Return trigrams that together cover each letter of `word`; a shorter word covers itself.

    The overlapping trigrams between them would hardly narrow the search, and each one costs in proportion to the
    number of texts that it occurs in.
    """
    n = min(LONGEST, len(word))
    return [word[i : i + n] for i in sorted({*range(0, len(word) - n + 1, n), len(word) - n})]


def selective_trigrams(word: str) -> list[str]:
    """Return the covering trigrams. Those that likely occur in the fewest texts come first: the last digits."""
    parts = covering_trigrams(word)
    digits = [part for part in reversed(parts) if any(letter.isdigit() for letter in part)]
    return list(dict.fromkeys([*digits, *parts]))


def trigram_codes(word: str, most: int | None = None) -> list[int]:
    """Return codes that `all_codes` of each text with `word` includes, at most `most` of them."""
    return _numbers(selective_trigrams(word)[:most])


def _numbers(parts: Iterable[str]) -> list[int]:
    return [crc32(part.encode()) - (1 << 31) for part in sorted(set(parts))]
