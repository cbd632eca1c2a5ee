"""The text in which words are searched, the same for every database."""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import normalize

from artstore.attr import Attr

# A word never matches across two fields: the separator cannot occur in a folded text. Both are
# noncharacters, which Unicode keeps from interchange. NUL ends a text in FTS5 and is refused by PostgreSQL.
_BETWEEN = "\ufdd1"
_STAND_IN = str.maketrans({"\0": "\ufdd0", _BETWEEN: "\ufdd0"})


def fold(text: str) -> str:
    """Return `text` in the form that is compared: case and the encoding of accents make no difference."""
    # Folding can undo the composition (U+01F0), hence the second pass.
    return normalize("NFC", normalize("NFC", text).casefold()).translate(_STAND_IN)


def searchable(attr: Attr) -> str:
    """Return name, description and tags, folded."""
    return _BETWEEN.join(fold(part) for part in (attr.original_filename, attr.description, *attr.tags))


def words_to_find(words: Iterable[str]) -> list[str]:
    """Return the words, folded, each once. The longest comes first, since it is likely the rarest."""
    return sorted({fold(word) for word in words} - {""}, key=lambda word: (-len(word), word))
