"""How words are compared when files are searched: a fold that maps different spellings of one word to one text.

Every cache folds what it searches and what is searched for with `fold`, so an answer does not depend on the database.
It ignores what writers leave out or cannot see, and never what makes another word in a script as a whole; two words
that fold to one text are found together, which does less harm than a file that is not found. docs/terms.md has the
rules for users.
"""

from __future__ import annotations

from unicodedata import category, combining, decimal, normalize

_IGNORED_MARKS = frozenset({1, *range(10, 37), *range(200, 240)})
"""Canonical combining classes of the marks that writers leave out: accents, Hebrew and Arabic points, strokes.

Others are letters to their writers: viramas and nuktas of India (7, 9), voicing in kana (8), tones and vowels of Thai,
Lao and Tibetan (103 to 132), vowel signs, which have class 0, and the Greek iota subscript (240), which is an iota in
capitals.
"""
_SAME = str.maketrans(
    {
        # Latin letters with a stroke or without their dot, and ligatures: Unicode decomposes neither.
        **dict(zip("ıȷłøđðħŧɨʉɉƀǥɟ", "ijloddhtiujbgj", strict=True)),
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        # Arabic letters as the keyboards of Persia, Pakistan and the Arab countries write them.
        **dict.fromkeys("\u0671", "\u0627"),
        **dict.fromkeys("\u0649\u06cc", "\u064a"),
        **dict.fromkeys("\u06a9", "\u0643"),
        **dict.fromkeys("\u0629\u06be\u06c1\u06d5", "\u0647"),
        # What a keyboard has in the place of typographic characters.
        **dict.fromkeys("`‘’‚‛ʹʻʼʽˈ′‵׳", "'"),
        **dict.fromkeys("“”„‟«»״", '"'),
        **dict.fromkeys("‐‑‒–—―−⁃־", "-"),
        "⁄": "/",
        # Invisible, though no format characters to Unicode: the grapheme joiner, tatweel (it stretches an Arabic word),
        # fillers of Hangul, two vowels of Khmer, variation selectors.
        **dict.fromkeys("\u034f\u0640\u115f\u1160\u3164\uffa0\u17b4\u17b5", None),
        **dict.fromkeys(
            map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))), None
        ),
    }
)
"""Characters that count as another one, or as none (None)."""


def fold(text: str) -> str:
    """Return `text` as it is compared in a search. Folding the result again changes nothing."""
    if text.isascii():
        return text.lower().replace("`", "'")
    # Twice, since a letter in the other case may decompose where the first does not.
    # An accent that stands alone is typed for an apostrophe, and decomposes to a space.
    text = normalize("NFKD", normalize("NFKD", text).casefold()).replace(" \u0301", "'")
    kept = (
        str(decimal(letter)) if letter.isdecimal() else letter
        for letter in text.translate(_SAME)
        if combining(letter) not in _IGNORED_MARKS and category(letter) != "Cf"
    )
    return normalize("NFC", "".join(kept))
