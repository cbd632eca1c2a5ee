"""The text in which words are searched, the same for every database."""

from __future__ import annotations

from collections.abc import Iterable

from artstore.attr import Attr
from artstore.folding import fold

# A word never matches across two fields: the character between them cannot occur in folded text. Both characters are
# noncharacters, which Unicode keeps from interchange. NUL ends a text in FTS5, and PostgreSQL refuses it.
_BETWEEN = "\ufdd1"
_STAND_IN = str.maketrans({"\0": "\ufdd0", _BETWEEN: "\ufdd0"})


def searchable(attr: Attr) -> str:
    """Return name, description and tags, folded."""
    return _BETWEEN.join(_fold(part) for part in (attr.original_filename, attr.description, *attr.tags))


def words_to_find(words: Iterable[str]) -> list[str]:
    """Return the words, folded, each once. The longest comes first, since it is likely the rarest."""
    return sorted({_fold(word) for word in words} - {""}, key=lambda word: (-len(word), word))


def _fold(text: str) -> str:
    return fold(text).translate(_STAND_IN)
