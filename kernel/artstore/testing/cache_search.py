"""Tests of what a search finds, in which order, and page by page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, get_args

import pytest

from artstore.attr import Attr
from artstore.errors import InvalidField
from artstore.ids import FileId
from artstore.spi import Cache, Cursor, Query, Sort
from artstore.testing.attrs import make_attr

SORTS: tuple[Sort, ...] = get_args(Sort)
ODD_TEXT = (
    "\u00e9 e\u0301 \U0001f600 \u0130\u0131 \u0001\t\n\r \ufdd0\ufdd1\ufffe\U0010ffff \u202e '\"`;--\\ %_*?"
)


def pages(cache: Cache, between: Callable[[], None] = lambda: None, **query: Any) -> list[Attr]:
    """Return every item of a search, page by page. `between` is called before each page but the first."""
    items: list[Attr] = []
    page = cache.search(Query(**query))
    items += page.items
    while page.next is not None:
        between()
        page = cache.search(Query(**query, after=page.next))
        items += page.items
    return items


def ids(items: Iterable[Attr]) -> list[FileId]:
    """Return the ids of items, in order."""
    return [attr.file_id for attr in items]


def cursor_of(attr: Attr, sort: Sort) -> Cursor:
    """Return the cursor behind `attr`."""
    return Cursor(getattr(attr, sort), attr.file_id)


class CacheSearch:
    """The promises of `Cache.search`."""

    @pytest.fixture
    def cache(self) -> Cache:
        """Return an empty cache. The fixture closes it."""
        raise NotImplementedError("override this fixture: return the cache under test")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, "abcd"),
            ({"filename": "a.txt"}, "a"),
            ({"filename": "A.TXT"}, "b"),
            ({"filename": "a"}, ""),
            ({"uploaded_by": "ann"}, "ac"),
            ({"uploaded_by": "an"}, ""),
            ({"content_type": "text/plain"}, "ab"),
            ({"content_type": "text/%"}, ""),
            ({"sha256": "1" * 64}, "b"),
            ({"tags": ("x",)}, "abc"),
            ({"tags": ("x", "y")}, "bc"),
            ({"tags": ("y", "x", "y")}, "bc"),
            ({"tags": ("X",)}, ""),
            ({"tags": ("x", "none")}, ""),
            ({"tags": ("",)}, ""),
            ({"min_size": 20}, "bcd"),
            ({"max_size": 20}, "ab"),
            ({"min_size": 20, "max_size": 20}, "b"),
            ({"min_size": 21, "max_size": 20}, ""),
            ({"min_size": -(2**70)}, "abcd"),
            ({"max_size": 2**70}, "abcd"),
            ({"min_size": 2**70}, ""),
            ({"max_size": -1}, ""),
            ({"uploaded_after": "2025-01-02T00:00:00.000Z"}, "cd"),
            ({"uploaded_before": "2025-01-02T00:00:00.000Z"}, "a"),
            ({"updated_after": "2025-02-02T00:00:00.000Z"}, "ab"),
            ({"updated_before": "2025-02-02T00:00:00.000Z"}, "d"),
            (
                {"updated_after": "2025-02-01T00:00:00.000Z", "updated_before": "2025-02-04T00:00:00.000Z"},
                "bc",
            ),
            (
                {"updated_after": "2025-02-01T00:00:00.000Z", "uploaded_after": "2025-01-02T00:00:00.000Z"},
                "c",
            ),
            (
                {
                    "uploaded_after": "2025-01-01T00:00:00.000Z",
                    "uploaded_before": "2025-01-04T00:00:00.000Z",
                },
                "bc",
            ),
            ({"uploaded_by": "ann", "tags": ("y",), "min_size": 1, "words": ("c",)}, "c"),
            ({"uploaded_by": "ann", "content_type": "image/png", "max_size": 1}, ""),
            ({"filename": "\ud800"}, ""),
            ({"words": ("\ud800",)}, ""),
        ],
    )
    def test_every_condition_must_hold(self, cache: Cache, query: dict[str, Any], expected: str) -> None:
        def attr(name: str, size: int, day: int, user: str, kind: str, *tags: str) -> Attr:
            return make_attr(
                original_filename=name, size=size, uploaded_by=user, content_type=kind, tags=tags,
                uploaded_at=f"2025-01-0{day}T00:00:00.000Z", updated_at=f"2025-02-0{5 - day}T00:00:00.000Z",
                sha256=str(day - 1) * 64,
            )  # fmt: skip

        rows = {
            "a": attr("a.txt", 10, 1, "ann", "text/plain", "x"),
            "b": attr("A.TXT", 20, 2, "bob", "text/plain", "x", "y"),
            "c": attr("c.png", 30, 3, "ann", "image/png", "y", "x"),
            "d": attr("d.png", 40, 4, "bob", "image/png"),
        }
        cache.put(list(rows.values()))
        for sort, descending in itertools.product(SORTS, (True, False)):
            key = partial(cursor_of, sort=sort)
            wanted = sorted((rows[n] for n in expected), key=key, reverse=descending)
            found = cache.search(Query(**query, sort=sort, descending=descending))
            assert ids(found.items) == ids(wanted), (sort, descending)
            assert found.next is None

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("Quarterly report", "TERLY"),
            ("Договор аренды", "договор"),
            ("договор", "ВОР"),
            ("合同2025年度报告", "合同"),
            ("合同2025年度报告", "度报告"),
            ("合", "合"),
            ("DIYARBAKIR", "diyarbakir"),
            ("Diyarbakır", "bakır"),
            ("İstanbul", "İSTANBUL"),
            ("İSTANBUL", "istanbul"),
            ("DIYARBAKIR", "diyarbakır"),
            ("Łódź Øresund", "lodz"),
            ("Œuvre complète", "oeuvre"),
            ("ёлка", "ЕЛКА"),
            ("Ελλάδα", "ΕΛΛΑΔΑ"),
            ("שָׁלוֹם", "שלום"),
            ("مُحَمَّد أحمد", "احمد"),
            ("کتاب ی", "كتاب"),
            ("تقــرير ١٤٤٧", "تقرير"),
            ("تقــرير ١٤٤٧", "1447"),
            ("ｶﾞｲﾄﾞ", "ガイド"),
            ("ＡＢＣ①", "abc1"),
            ("Stra\u00adße", "strasse"),
            ("left\u200e.txt", "left.txt"),
            ("Bob’s – “draft”", '"draft"'),
            ("Bob’s – “draft”", "bob's"),
            ("2025–2026", "2025-2026"),
            ("9:41\u202fPM", "1 pm"),
            ("Straße", "STRASSE"),
            ("caf\u00e9", "CAFE\u0301"),
            ("cafe\u0301", "caf\u00e9"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("ﬁle", "FIL"),
            ("invoice 20250111", "0250"),
            ("a_b", "_"),
            ("snake_case", "e_c"),
            ("100% sure", "%"),
            ("100% sure", "0% s"),
            ('say "hello"', '"hello"'),
            ('say "hello"', '"'),
            ("it's", "t's"),
            ("2 * 3 ** 4", "3 **"),
            ("(a OR b) AND NOT c", "OR b) AND NOT"),
            ("a-b^c:d{e}", "-b^c:d{"),
            ("back\\slash", "k\\s"),
            ("line\nbreak", "e\nb"),
            ("control\1inside it", "inside"),
            ("control\1inside it", "l\1i"),
            ("\U0001f600\U0001f601\U0001f602", "\U0001f601"),
            ("x\ufffey\ufdd0z", "\ufffey\ufdd0"),
            ("anything", ""),
        ],
    )
    def test_a_word_is_found_in_any_text(self, cache: Cache, text: str, word: str) -> None:
        attr = make_attr(description=text)
        cache.put([attr, make_attr(description="", original_filename="-")])
        found = cache.search(Query(words=(word,), tags=())).items
        assert attr in found
        assert len(found) == (1 if word else 2)

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("abc", "a_c"), ("abc", "a%"), ("abc", "a*"), ("abc", "%"), ("abc", "_"), ("abc", '"'),
            ("abc", "abcd"), ("abcbcd", "abcd"), ("가방", "각"), ("かばん", "がばん"), ("की", "का"), ("ที่", "ที้"),
            ("abc def", "abcdef"), ("abc def", "cd"), ("abc", "abc\0"), ("abc", "NEAR"), ("ab", "b\n"),
            ("bcdabc", "abcd"), ("a b", "a  b"),
        ],
    )  # fmt: skip
    def test_no_character_of_a_word_is_special(self, cache: Cache, text: str, word: str) -> None:
        cache.put([make_attr(original_filename="z", description=text)])
        assert cache.search(Query(words=(word,))).items == []

    def test_words_are_searched_in_name_description_and_tags_alone(self, cache: Cache) -> None:
        attr = make_attr(
            original_filename="Name.pdf", description="Described", tags=("Tagged",), uploaded_by="nobody",
            metadata={"secret": "hidden"}, unknown="hidden", storage_path="2025/hidden",
        )  # fmt: skip
        cache.put([attr, make_attr()])
        for words in (("name",), ("DESCRIBED",), ("tagged",), ("tagged", "NAME", "crib"), ("d", "me")):
            assert cache.search(Query(words=words)).items == [attr], words
        for words in (("hidden",), ("nobody",), ("application",), ("name", "absent"), ("x", "name")):
            assert cache.search(Query(words=words)).items == [], words

    def test_a_word_lies_within_one_field(self, cache: Cache) -> None:
        cache.put([make_attr(original_filename="abc", description="def", tags=("ghi", "jkl"))])
        for between in ("", " ", "\n", "\0", "\t", ","):
            for word in (f"c{between}d", f"abc{between}def", f"def{between}ghi", f"ghi{between}jkl"):
                assert cache.search(Query(words=(word,))).items == []

    def test_short_words_are_found_anywhere(self, cache: Cache) -> None:
        names = (
            "ab",
            "a",
            "счёт_07.pdf",
            "07_ж",
            "合同",
            "同",
            "合",
            "😀",
            "x😀",
            "ŋ",
            "plan_0",
            "\ufffe9",
            "q\uffff",
        )
        attrs = [make_attr(original_filename=name, description="", size=n) for n, name in enumerate(names)]
        attrs.append(make_attr(original_filename="-", description="-", tags=("яб", "ю"), size=99))
        cache.put(attrs)
        words = {"b", "07", "ъ", "я", "б", "яб", "бю", "ю", "zz", "_0", "\ufffe", "\uffff", "e", *names}
        words |= {name[-2:] for name in names} | {name[-1:] for name in names}

        def holding(*expected: str) -> list[Attr]:
            texts = {a.file_id: (a.original_filename, *a.tags) for a in attrs}
            return [
                a for a in attrs if all(any(word in text for text in texts[a.file_id]) for word in expected)
            ]

        def found(*expected: str) -> list[Attr]:
            return list(cache.search(Query(words=expected, sort="size", descending=False)).items)

        for word in words:
            assert found(word) == holding(word), word
            assert found(word, "0") == holding(word, "0"), word
        cache.remove([attr.file_id for attr in attrs[::2]])
        attrs = attrs[1::2]
        for word in words:
            assert found(word) == holding(word), word

    def test_many_words_and_long_ones(self, cache: Cache) -> None:
        texts = [f"{n}q" for n in range(700)]
        attr = make_attr(description=" ".join(texts))
        cache.put([attr, make_attr(description="1q")])
        assert cache.search(Query(words=tuple(texts))).items == [attr]
        assert cache.search(Query(words=(*texts, "701q"))).items == []
        assert cache.search(Query(words=(attr.description,))).items == [attr]
        assert cache.search(Query(words=(attr.description + "x",))).items == []

    def test_more_tags_than_any_file_has(self, cache: Cache) -> None:
        tags = tuple(f"t{n}" for n in range(700))
        attr = make_attr(tags=tags)
        cache.put([attr, make_attr(tags=tags[1:])])
        assert cache.search(Query(tags=tags)).items == [attr]
        assert cache.search(Query(tags=(*tags, "other"))).items == []

    def attrs_with_ties(self) -> list[Attr]:
        names = ("b", "B", "é", "e\u0301", "я", "\U0001f600", "\uffee", "a", "10", "9", "_", " .a")
        return [
            make_attr(
                original_filename=names[n % len(names)],
                size=(n * 7) % 5 if n % 2 else 10 ** (n % 12),
                uploaded_at=f"2025-01-11T15:30:{n % 4:02}.000Z",
                updated_at=f"2025-01-12T15:30:{n % 5:02}.000Z",
            )
            for n in range(47)
        ]

    @pytest.mark.parametrize("words", [(), ("e",), ("😀",)])
    def test_pages_have_each_entry_once_in_order(self, cache: Cache, words: tuple[str, ...]) -> None:
        attrs = [a.model_copy(update={"description": "see" if n % 3 else "no"})
                for n, a in enumerate(self.attrs_with_ties())]  # fmt: skip
        cache.put(attrs)
        for sort, descending in itertools.product(SORTS, (True, False)):
            all_at_once = cache.search(Query(words=words, sort=sort, descending=descending, limit=1000))
            assert all_at_once.next is None
            if not words:
                expected = sorted(attrs, key=partial(cursor_of, sort=sort), reverse=descending)
                assert ids(all_at_once.items) == ids(expected), (sort, descending)
            for limit in (1, 7, 46, 47, 48):
                paged = pages(cache, words=words, sort=sort, descending=descending, limit=limit)
                assert ids(paged) == ids(all_at_once.items), (sort, descending, limit)

    def test_the_last_page_has_no_next(self, cache: Cache) -> None:
        assert cache.search(Query()).next is None
        attrs = [make_attr(size=n) for n in range(4)]
        cache.put(attrs)
        first = cache.search(Query(sort="size", descending=False, limit=2))
        assert first.next == Cursor(1, attrs[1].file_id)
        second = cache.search(Query(sort="size", descending=False, limit=2, after=first.next))
        assert second.items == attrs[2:]
        assert second.next is None

    @pytest.mark.parametrize("sort", SORTS)
    @pytest.mark.parametrize("descending", [True, False])
    def test_changes_between_pages_lose_and_repeat_nothing(
        self, cache: Cache, sort: Sort, descending: bool
    ) -> None:
        attrs = self.attrs_with_ties()
        staying, leaving = attrs[::2], attrs[1::2]
        cache.put(attrs)

        def between() -> None:
            cache.put([make_attr(original_filename=n, size=s) for n, s in (("a", 1), ("я", 10**6))])
            if leaving:
                cache.remove([leaving.pop().file_id])

        seen = ids(pages(cache, between, sort=sort, descending=descending, limit=3))
        assert len(seen) == len(set(seen))
        assert set(ids(staying)) <= set(seen)

    @pytest.mark.parametrize("descending", [True, False])
    @pytest.mark.parametrize(
        "query",
        [
            {"sort": "size", "min_size": 3, "max_size": 9},
            {"sort": "size", "min_size": 3},
            {"sort": "size", "max_size": 9},
            {"uploaded_after": "2025-01-11T15:30:00.500Z", "uploaded_before": "2025-01-11T15:30:02.500Z"},
            {"uploaded_after": "2025-01-11T15:30:00.500Z"},
            {"uploaded_before": "2025-01-11T15:30:02.500Z", "min_size": 1},
            {"sort": "updated_at", "updated_after": "2025-01-12T15:30:00.500Z"},
            {"sort": "updated_at", "updated_before": "2025-01-12T15:30:02.500Z"},
            {"updated_after": "2025-01-12T15:30:00.500Z", "updated_before": "2025-01-12T15:30:03.500Z"},
            {"sort": "original_filename", "filename": "é"},
        ],
    )
    def test_pages_stay_within_the_bounds_of_what_they_are_sorted_by(
        self, cache: Cache, query: dict[str, Any], descending: bool
    ) -> None:
        cache.put(self.attrs_with_ties())
        whole = cache.search(Query(**query, descending=descending))
        assert whole.next is None
        assert len(whole.items) >= 3
        assert pages(cache, **query, descending=descending, limit=1) == list(whole.items)
        # A cursor from elsewhere, such as a client may send, finds nothing outside of the bounds.
        for attr in self.attrs_with_ties()[:12]:
            end = cursor_of(attr, query.get("sort", "uploaded_at"))
            beyond = cache.search(Query(**query, descending=descending, after=end)).items
            assert set(ids(beyond)) <= set(ids(whole.items))

    def test_a_cursor_works_after_its_entry_was_removed(self, cache: Cache) -> None:
        attrs = [make_attr(size=5) for _ in range(6)]
        cache.put(attrs)
        first = cache.search(Query(sort="size", descending=False, limit=3))
        cache.remove(ids(first.items))
        assert cache.search(Query(sort="size", descending=False, after=first.next)).items == attrs[3:]

    @pytest.mark.parametrize(
        ("sort", "value"), [("size", "12"), ("uploaded_at", 12), ("original_filename", 1)]
    )
    def test_a_cursor_of_another_order_is_refused(self, cache: Cache, sort: Sort, value: str | int) -> None:
        cache.put([make_attr()])
        with pytest.raises(InvalidField):
            cache.search(Query(sort=sort, after=Cursor(value, make_attr().file_id)))
