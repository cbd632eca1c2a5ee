"""Words that people take for one fold to one text, whatever the script; other words stay apart."""

from __future__ import annotations

import sys
from unicodedata import category, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.folding import fold

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
LETTERS = [chr(code) for code in range(sys.maxunicode + 1) if category(chr(code)) not in ("Cn", "Co", "Cs")]
VARIANTS = [c for c in LETTERS if {normalize("NFKD", c), c.casefold(), c.upper()} != {c}]
"""All letters that Unicode writes in more than one way."""


def test_every_letter_folds_to_the_same_text_in_each_of_its_spellings() -> None:
    assert len(VARIANTS) > 15_000
    for letter in VARIANTS:
        folded = fold(letter)
        spellings = {normalize(form, letter) for form in FORMS} | {
            letter.upper(),
            letter.lower(),
            letter.title(),
            letter.casefold(),
        }
        assert {fold(one) for one in spellings} == {folded}, (letter, hex(ord(letter)))
        assert fold(folded) == folded, (letter, hex(ord(letter)))


@given(st.text())
def test_folding_a_folded_text_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(), st.sampled_from(FORMS))
def test_composed_and_decomposed_text_is_one(text: str, form: str) -> None:
    assert fold(normalize(form, text)) == fold(text)  # type: ignore[arg-type]


@given(st.text())
def test_case_makes_no_difference(text: str) -> None:
    assert fold(text.casefold()) == fold(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ISPANAK", "ıspanak"),
        ("don´t", "don't"),
        ("don`t", "don’t"),
        ("«да»", '"да"'),
        ("Þór", "THOR"),
        ("ئ", "ي"),
        ("ۀ", "ه"),
        ("क्‍ष", "क्ष"),
        ("❤️", "❤"),
        ("０１２", "012"),
        ("x\ufeffy", "xy"),
    ],
)
def test_people_take_these_for_one(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("か", "が"), ("ハ", "パ"), ("かな", "カナ"), ("각", "가"), ("की", "का"), ("क", "क्"), ("क", "क़"), ("ä", "ae"),
     ("ดี", "ดิ"), ("ข่า", "ข้า"), ("国", "國"), ("o", "0"), ("l", "1")],
)  # fmt: skip
def test_people_take_these_for_two(one: str, other: str) -> None:
    assert fold(one) != fold(other)
