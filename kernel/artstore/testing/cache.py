"""What every cache must do: subclass `CacheSuite`, override `cache`, run pytest."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, get_args

import pytest

from artstore.attr import Attr
from artstore.errors import InvalidField, Unavailable
from artstore.spi import API, Cache, Cursor, Query, Sort, Totals
from artstore.testing.attrs import make_attr

SORTS: tuple[Sort, ...] = get_args(Sort)
ODD = "\u00e9 e\u0301 \U0001f600 \u0130\u0131 \u0001\t\n\r \ufdd0\ufdd1\ufffe\U0010ffff \u202e '\"`;--\\ %_*?"


def pages(cache: Cache, between: Callable[[], None] = lambda: None, **query: Any) -> list[Attr]:
    """Every item of a search, page by page; `between` runs before each page but the first."""
    items: list[Attr] = []
    page = cache.search(Query(**query))
    items += page.items
    while page.next is not None:
        between()
        page = cache.search(Query(**query, after=page.next))
        items += page.items
    return items


def ids(items: Any) -> list[str]:
    return [attr.file_id for attr in items]


def place(attr: Attr, sort: Sort) -> Cursor:
    return Cursor(getattr(attr, sort), attr.file_id)


class CacheSuite:
    """The promises of `artstore.spi.Cache`, sentence by sentence."""

    @pytest.fixture
    def cache(self) -> Cache:
        """An empty cache, closed by whoever made it."""
        raise NotImplementedError

    @pytest.fixture
    def reopen(self) -> Callable[[], Cache] | None:
        """Closes `cache` and opens what it kept; None for a cache that keeps nothing: then every start is new."""
        return None

    @pytest.fixture
    def unplug(self) -> Callable[[], None] | None:
        """Makes what is behind `cache` stop answering, for good; None: it cannot."""
        return None

    # --- put, remove ---

    def test_it_says_which_contract_it_was_written_for(self, cache: Cache) -> None:
        assert cache.API == API
        assert cache.Settings.model_config.get("extra") == "forbid"

    def test_a_row_is_seen_when_put_returns(self, cache: Cache) -> None:
        attr = make_attr()
        cache.put([attr])
        assert cache.search(Query()).items == [attr]
        assert cache.key(attr.file_id) == attr.key

    def test_putting_twice_is_putting_once(self, cache: Cache) -> None:
        attr = make_attr(size=5, tags=("a",))
        cache.put([attr, attr])
        cache.put([attr])
        assert cache.search(Query(tags=("a",))).items == [attr]
        assert cache.totals() == Totals(1, 5)

    def test_putting_nothing_is_no_error(self, cache: Cache) -> None:
        cache.put([])
        cache.remove([])
        assert cache.totals() == Totals(0, 0)

    def test_a_put_replaces_everything_of_the_row(self, cache: Cache) -> None:
        old = make_attr(original_filename="old.txt", size=3, tags=("red", "blue"), description="first")
        new = make_attr(
            file_id=old.file_id, original_filename="new.txt", size=4, tags=("blue", "green"), revision=2,
            content_type="text/plain", sha256="1" * 64, uploaded_by="petrov", storage_path="2030/01/01/00",
            uploaded_at="2030-01-01T00:00:00.000Z", description="second",
        )  # fmt: skip
        cache.put([old])
        cache.put([new])
        assert cache.search(Query()).items == [new]
        for gone in (
            {"words": ("first",)}, {"words": ("old",)}, {"words": ("red",)}, {"tags": ("red",)},
            {"filename": "old.txt"}, {"sha256": old.sha256}, {"uploaded_by": "ivanov"}, {"max_size": 3},
            {"content_type": old.content_type}, {"uploaded_before": "2029-01-01T00:00:00.000Z"},
        ):  # fmt: skip
            assert cache.search(Query(**gone)).items == [], gone
        for there in ({"words": ("second", "new", "green")}, {"tags": ("blue", "green")}):
            assert cache.search(Query(**there)).items == [new]
        assert cache.ids_in(old.storage_path) == {}
        assert cache.totals() == Totals(1, 4)

    def test_the_same_revision_replaces(self, cache: Cache) -> None:
        old = make_attr(description="one")
        new = make_attr(file_id=old.file_id, description="two")
        cache.put([old])
        cache.put([new])
        assert cache.search(Query()).items == [new]

    def test_a_newer_revision_stays(self, cache: Cache) -> None:
        new = make_attr(revision=3, size=7, tags=("new",), description="recent")
        old = make_attr(file_id=new.file_id, revision=2, size=9, tags=("old",), description="ancient")
        cache.put([new])
        cache.put([old])
        cache.put([new, old])
        assert cache.search(Query()).items == [new]
        assert cache.search(Query(tags=("old",))).items == []
        assert cache.search(Query(words=("ancient",))).items == []
        assert cache.totals() == Totals(1, 7)

    def test_a_removed_row_is_gone_when_remove_returns(self, cache: Cache) -> None:
        gone, kept = make_attr(size=1, tags=("t",)), make_attr(size=2, tags=("t",))
        cache.put([gone, kept])
        cache.remove([gone.file_id])
        assert cache.key(gone.file_id) is None
        assert cache.search(Query(tags=("t",), words=("report",))).items == [kept]
        assert cache.ids_in(gone.storage_path) == {kept.storage_filename: kept.file_id}
        assert cache.totals() == Totals(1, 2)

    def test_removing_what_is_not_there_is_no_error(self, cache: Cache) -> None:
        attr = make_attr()
        cache.remove([attr.file_id, "never-an-id", "", "\ud800"])
        cache.put([attr])
        cache.remove([attr.file_id, attr.file_id])
        cache.remove([attr.file_id])
        assert cache.totals() == Totals(0, 0)

    def test_a_removed_row_may_come_back_with_any_revision(self, cache: Cache) -> None:
        attr = make_attr(revision=5)
        cache.put([attr])
        cache.remove([attr.file_id])
        again = make_attr(file_id=attr.file_id, revision=1)
        cache.put([again])
        assert cache.search(Query()).items == [again]

    def test_thousands_of_rows_in_one_call(self, cache: Cache) -> None:
        attrs = [make_attr(size=1, description=f"number {n}") for n in range(2500)]
        cache.put(attrs)
        assert cache.totals() == Totals(2500, 2500)
        assert cache.search(Query(words=("number 1234",))).items == [attrs[1234]]
        cache.remove(ids(attrs[:2400]))
        assert cache.totals() == Totals(100, 100)

    # --- what comes back ---

    @pytest.mark.parametrize(
        "changes",
        [
            {"description": ODD, "tags": ("привет", "标签", "İı", "a" * 100), "uploaded_by": "Ω\u0301"},
            {"original_filename": "отчёт e\u0301\U0001f600.pdf", "metadata": {ODD: [ODD, None, True, 1.5]}},
            {"metadata": {"big": 2**80, "tiny": 1e-300, "zero": -0.0, "deep": {"a": [{"b": []}]}}},
            {"from_the_future": {"x": [1, 2.5, None, "é"]}, "another key": "v", "id": 7, "words": "w"},
            {"size": 0, "revision": 2**40, "tags": ("a", "b", "a")},
            {"content_type": 'text/plain; charset="utf-8"', "size": 2**50},
        ],
    )
    def test_an_attr_comes_back_whole(self, cache: Cache, changes: dict[str, Any]) -> None:
        attr = make_attr(**changes)
        cache.put([attr])
        (found,) = cache.search(Query()).items
        assert found == attr
        assert found.model_dump_json() == attr.model_dump_json()

    # --- key, directory, totals ---

    def test_key_of_an_unknown_id_is_none(self, cache: Cache) -> None:
        cache.put([make_attr()])
        for unknown in (make_attr().file_id, "", "%", "\0", "\ud800"):
            assert cache.key(unknown) is None

    def test_a_directory_holds_its_rows_and_no_others(self, cache: Cache) -> None:
        here = [make_attr(storage_path="2025/01/11/15") for _ in range(3)]
        others = [make_attr(storage_path=path) for path in ("2025/01/11", "2025/01/11/16", "2025/01/11/1")]
        cache.put(here + others)
        assert cache.ids_in("2025/01/11/15") == {a.storage_filename: a.file_id for a in here}
        for empty in ("", "2025/01/11/15/", "2025/01/11/%", "\ud800"):
            assert cache.ids_in(empty) == {}

    def test_rows_of_a_directory_are_whole(self, cache: Cache) -> None:
        here = [
            make_attr(
                original_filename=f"{ODD[:9]}{n}", description=ODD, tags=("t", ODD[:5]), metadata={"n": [n, None]},
                a_key_of_tomorrow={"kept": ODD}, revision=n % 3 + 1,
            )
            for n in range(2500)
        ]  # fmt: skip
        cache.put([*here, make_attr(storage_path="2025/01/11/16")])
        assert dict(cache.entries_in("2025/01/11/15")) == {attr.file_id: attr for attr in here}
        for empty in ("2025/01/11", "2025/01/11/1", "", "nowhere", "\ud800"):
            assert list(cache.entries_in(empty)) == []

    def test_rows_tell_of_every_change(self, cache: Cache) -> None:
        old = make_attr(description="one")
        cache.put([old])
        new = make_attr(file_id=old.file_id, revision=2, description="two")
        cache.put([new])
        assert list(cache.entries_in(old.storage_path)) == [(old.file_id, new)]
        cache.remove([old.file_id])
        assert list(cache.entries_in(old.storage_path)) == []

    def test_directories_with_rows_are_listed_in_order(self, cache: Cache) -> None:
        places = [
            "2025/01/11/15",
            "2025/01/11/16",
            "2024/12/31/23",
            "a",
            "B",
            "a-b",
            "a/b",
            "\u00e9",
            "\U0001f600",
        ]
        attrs = [make_attr(storage_path=place) for place in places for _ in range(2)]
        cache.put(attrs)
        assert list(cache.list_directories()) == sorted(places)
        assert list(cache.list_directories("2025/01/11/16")) == sorted(
            p for p in places if p >= "2025/01/11/16"
        )
        assert list(cache.list_directories("\U0010ffff")) == []
        cache.remove([attr.file_id for attr in attrs if attr.storage_path != "a"][:-1])
        assert list(cache.list_directories()) == ["a", "\U0001f600"]

    def test_totals_follow_every_change(self, cache: Cache) -> None:
        assert cache.totals() == Totals(0, 0)
        attrs = [make_attr(size=2**40 + n) for n in range(3)]
        cache.put(attrs)
        assert cache.totals() == Totals(3, 3 * 2**40 + 3)
        cache.put([make_attr(file_id=attrs[0].file_id, size=0, revision=2)])
        assert cache.totals() == Totals(3, 2 * 2**40 + 3)
        cache.remove([attrs[1].file_id])
        assert cache.totals() == Totals(2, 2**40 + 2)

    # --- filters ---

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
                uploaded_at=f"2025-01-0{day}T00:00:00.000Z", sha256=str(day - 1) * 64,
            )  # fmt: skip

        rows = {
            "a": attr("a.txt", 10, 1, "ann", "text/plain", "x"),
            "b": attr("A.TXT", 20, 2, "bob", "text/plain", "x", "y"),
            "c": attr("c.png", 30, 3, "ann", "image/png", "y", "x"),
            "d": attr("d.png", 40, 4, "bob", "image/png"),
        }
        cache.put(list(rows.values()))
        for sort, descending in itertools.product(SORTS, (True, False)):
            key = partial(place, sort=sort)
            wanted = sorted((rows[n] for n in expected), key=key, reverse=descending)
            found = cache.search(Query(**query, sort=sort, descending=descending))
            assert ids(found.items) == ids(wanted), (sort, descending)
            assert found.next is None

    # --- words ---

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
            ("ISPANAK", "ıspanak"), ("ılık", "ilik"), ("cafe", "café"), ("abc", "abcd"), ("abcbcd", "abcd"),
            ("abc def", "abcdef"), ("abc def", "cd"), ("abc", "abc\0"), ("abc", "NEAR"), ("ab", "b\n"),
            ("bcdabc", "abcd"), ("a b", "a  b"),
        ],
    )  # fmt: skip
    def test_no_character_is_special(self, cache: Cache, text: str, word: str) -> None:
        cache.put([make_attr(original_filename="z", description=text)])
        assert cache.search(Query(words=(word,))).items == []

    def test_words_are_looked_for_in_name_description_and_tags_alone(self, cache: Cache) -> None:
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

    def test_short_words_are_found_wherever_they_stand(self, cache: Cache) -> None:
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
            "é",
            "plan_0",
            "\ufffe9",
            "q\uffff",
        )
        attrs = [make_attr(original_filename=name, description="", size=n) for n, name in enumerate(names)]
        attrs.append(make_attr(original_filename="-", description="-", tags=("яб", "ю"), size=99))
        cache.put(attrs)
        words = {"b", "07", "ъ", "я", "б", "яб", "бю", "ю", "zz", "_0", "\ufffe", "\uffff", "e", *names}
        words |= {name[-2:] for name in names} | {name[-1:] for name in names}

        def holding(*wanted: str) -> list[Attr]:
            texts = {a.file_id: (a.original_filename, *a.tags) for a in attrs}
            return [
                a for a in attrs if all(any(word in text for text in texts[a.file_id]) for word in wanted)
            ]

        def found(*wanted: str) -> list[Attr]:
            return list(cache.search(Query(words=wanted, sort="size", descending=False)).items)

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

    # --- order and pages ---

    def rows_with_ties(self) -> list[Attr]:
        names = ("b", "B", "é", "e\u0301", "я", "\U0001f600", "\uffee", "a", "10", "9", "_", " .a")
        return [
            make_attr(
                original_filename=names[n % len(names)],
                size=(n * 7) % 5 if n % 2 else 10 ** (n % 12),
                uploaded_at=f"2025-01-11T15:30:{n % 4:02}.000Z",
            )
            for n in range(47)
        ]

    @pytest.mark.parametrize("words", [(), ("e",), ("😀",)])
    def test_pages_hold_each_row_once_in_order(self, cache: Cache, words: tuple[str, ...]) -> None:
        rows = [a.model_copy(update={"description": "see" if n % 3 else "no"})
                for n, a in enumerate(self.rows_with_ties())]  # fmt: skip
        cache.put(rows)
        for sort, descending in itertools.product(SORTS, (True, False)):
            all_at_once = cache.search(Query(words=words, sort=sort, descending=descending, limit=1000))
            assert all_at_once.next is None
            if not words:
                wanted = sorted(rows, key=partial(place, sort=sort), reverse=descending)
                assert ids(all_at_once.items) == ids(wanted), (sort, descending)
            for limit in (1, 7, 46, 47, 48):
                paged = pages(cache, words=words, sort=sort, descending=descending, limit=limit)
                assert ids(paged) == ids(all_at_once.items), (sort, descending, limit)

    def test_the_last_page_says_so(self, cache: Cache) -> None:
        assert cache.search(Query()).next is None
        rows = [make_attr(size=n) for n in range(4)]
        cache.put(rows)
        first = cache.search(Query(sort="size", descending=False, limit=2))
        assert first.next == Cursor(1, rows[1].file_id)
        second = cache.search(Query(sort="size", descending=False, limit=2, after=first.next))
        assert second.items == rows[2:]
        assert second.next is None

    @pytest.mark.parametrize("sort", SORTS)
    @pytest.mark.parametrize("descending", [True, False])
    def test_changes_between_pages_lose_and_repeat_nothing(
        self, cache: Cache, sort: Sort, descending: bool
    ) -> None:
        rows = self.rows_with_ties()
        staying, leaving = rows[::2], rows[1::2]
        cache.put(rows)

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
            {"sort": "original_filename", "filename": "é"},
        ],
    )
    def test_pages_stay_within_the_bounds_of_what_they_are_sorted_by(
        self, cache: Cache, query: dict[str, Any], descending: bool
    ) -> None:
        cache.put(self.rows_with_ties())
        whole = cache.search(Query(**query, descending=descending))
        assert whole.next is None
        assert len(whole.items) >= 3
        assert pages(cache, **query, descending=descending, limit=1) == list(whole.items)
        # A position from anywhere else, such as a client may send, opens nothing beyond them.
        for attr in self.rows_with_ties()[:12]:
            end = place(attr, query.get("sort", "uploaded_at"))
            beyond = cache.search(Query(**query, descending=descending, after=end)).items
            assert set(ids(beyond)) <= set(ids(whole.items))

    def test_a_position_whose_row_is_gone_still_holds(self, cache: Cache) -> None:
        rows = [make_attr(size=5) for _ in range(6)]
        cache.put(rows)
        first = cache.search(Query(sort="size", descending=False, limit=3))
        cache.remove(ids(first.items))
        assert cache.search(Query(sort="size", descending=False, after=first.next)).items == rows[3:]

    @pytest.mark.parametrize(
        ("sort", "value"), [("size", "12"), ("uploaded_at", 12), ("original_filename", 1)]
    )
    def test_a_position_of_another_order_is_refused(self, cache: Cache, sort: Sort, value: str | int) -> None:
        cache.put([make_attr()])
        with pytest.raises(InvalidField):
            cache.search(Query(sort=sort, after=Cursor(value, make_attr().file_id)))

    # --- stamp, clear, flush, check, close ---

    def test_a_new_cache_has_no_stamp(self, cache: Cache) -> None:
        assert cache.generation() is None

    def test_the_stamp_last_set_is_the_stamp(self, cache: Cache) -> None:
        for stamp in ("first", "second é \U0001f600", ""):
            cache.set_generation(stamp)
            assert cache.generation() == stamp

    def test_a_stamp_takes_the_place_of_the_one_that_is_named(self, cache: Cache) -> None:
        for there in (None, "first"):
            with pytest.raises(Unavailable):
                cache.set_generation("second", if_match="zeroth")
            assert cache.generation() == there
            cache.set_generation("first")
        cache.set_generation("second", if_match="first")
        assert cache.generation() == "second"

    def test_clear_forgets_rows_and_stamp_and_leaves_a_working_cache(self, cache: Cache) -> None:
        cache.put([make_attr(tags=("t",)) for _ in range(10)])
        cache.set_generation("here")
        cache.clear()
        cache.clear()
        assert cache.generation() is None
        assert cache.totals() == Totals(0, 0)
        assert cache.search(Query()).items == []
        assert cache.search(Query(words=("report",))).items == []
        assert cache.search(Query(tags=("t",))).items == []
        attr = make_attr(revision=1, tags=("t",))
        cache.put([attr])
        assert cache.search(Query(words=("report",), tags=("t",))).items == [attr]

    def test_flush_and_check_change_nothing(self, cache: Cache) -> None:
        cache.flush()
        attr = make_attr()
        cache.put([attr])
        cache.set_generation("s")
        cache.flush()
        cache.check()
        cache.flush()
        assert cache.search(Query()).items == [attr]
        assert cache.generation() == "s"

    def test_what_was_put_is_there_after_a_restart(
        self, cache: Cache, reopen: Callable[[], Cache] | None
    ) -> None:
        if reopen is None:
            assert cache.generation() is None  # so the kernel rebuilds it
            return
        rows = [make_attr(size=n, tags=(f"t{n}",), description=f"text {n}") for n in range(20)]
        cache.put(rows)
        cache.set_generation("kept")
        cache.remove([rows[0].file_id])
        cache.flush()
        again = reopen()
        assert again.generation() == "kept"
        assert again.totals() == Totals(19, sum(range(20)))
        assert again.search(Query(words=("text 7",), tags=("t7",))).items == [rows[7]]
        assert again.key(rows[0].file_id) is None
        again.put([rows[0]])
        assert ids(again.search(Query(sort="size", descending=False)).items) == ids(rows)

    def test_a_database_that_does_not_answer_says_so(
        self, cache: Cache, unplug: Callable[[], None] | None
    ) -> None:
        if unplug is None:
            return
        attr = make_attr()
        cache.put([attr])
        unplug()
        steps: list[Callable[[], Any]] = [
            lambda: cache.put([make_attr()]),
            lambda: cache.remove([attr.file_id]),
            lambda: cache.key(attr.file_id),
            lambda: cache.search(Query()),
            lambda: cache.ids_in(attr.storage_path),
            lambda: cache.set_generation("s"),
            cache.totals,
            cache.generation,
            cache.clear,
            cache.check,
        ]
        for number, step in enumerate(steps):
            try:
                step()
            except Unavailable:
                continue
            pytest.fail(f"step {number} did not say that the database is gone")

    def test_close_is_harmless_twice(self, cache: Cache) -> None:
        cache.put([make_attr()])
        cache.close()
        cache.close()

    # --- threads ---

    def test_many_threads_write_and_each_sees_what_it_wrote(self, cache: Cache) -> None:
        threads, each = 16, 12
        start = threading.Barrier(threads)

        def work(number: int) -> None:
            start.wait()
            for n in range(each):
                attr = make_attr(uploaded_by=f"user{number}", size=1, tags=(f"n{n}",))
                cache.put([attr])
                assert cache.key(attr.file_id) == attr.key
                assert cache.search(Query(uploaded_by=f"user{number}", tags=(f"n{n}",))).items == [attr]
                if n % 3 == 0:
                    cache.remove([attr.file_id])
                    assert cache.key(attr.file_id) is None
                if n % 5 == 0:
                    cache.totals()
                    cache.flush()

        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work, n) for n in range(threads)]:
                done.result()
        left = threads * each * 2 // 3
        assert cache.totals() == Totals(left, left)
        assert len(pages(cache, limit=17)) == left

    def test_threads_racing_for_one_row_leave_the_newest(self, cache: Cache) -> None:
        file_id = make_attr().file_id
        revisions = [make_attr(file_id=file_id, revision=n, size=n, tags=(f"r{n}",)) for n in range(1, 65)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda attr: cache.put([attr]), revisions[::-1]))
        assert cache.search(Query()).items == [revisions[-1]]
        assert cache.search(Query(tags=("r64",))).items == [revisions[-1]]
        assert cache.totals() == Totals(1, 64)
