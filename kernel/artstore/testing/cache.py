"""What every cache must do: subclass `CacheSuite`, override `cache`, run pytest.

Override `reopen` for a cache that keeps its entries, and `unplug` if its database can be made to stop answering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from artstore.errors import Unavailable
from artstore.ids import FileId
from artstore.spi import API, Cache, Query, Totals
from artstore.testing.attrs import make_attr
from artstore.testing.cache_search import ODD_TEXT, SORTS, CacheSearch, cursor_of, ids, pages

__all__ = ["SORTS", "CacheSuite", "cursor_of", "ids", "pages"]


class CacheSuite(CacheSearch):
    """The promises of `artstore.spi.Cache`, sentence by sentence."""

    @pytest.fixture
    def reopen(self) -> Callable[[], Cache] | None:
        """Return a function that closes `cache` and opens it again; None for a cache that keeps nothing."""
        return None

    @pytest.fixture
    def unplug(self) -> Callable[[], None] | None:
        """Return a function that makes the database of `cache` stop answering for good; None if none can."""
        return None

    def test_it_names_its_contract(self, cache: Cache) -> None:
        assert cache.API == API
        assert cache.Settings.model_config.get("extra") == "forbid"

    def test_an_entry_is_found_when_put_returns(self, cache: Cache) -> None:
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

    def test_put_replaces_the_whole_entry(self, cache: Cache) -> None:
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

    def test_put_replaces_the_same_revision(self, cache: Cache) -> None:
        old = make_attr(description="one")
        new = make_attr(file_id=old.file_id, description="two")
        cache.put([old])
        cache.put([new])
        assert cache.search(Query()).items == [new]

    def test_put_does_not_replace_a_newer_revision(self, cache: Cache) -> None:
        new = make_attr(revision=3, size=7, tags=("new",), description="recent")
        old = make_attr(file_id=new.file_id, revision=2, size=9, tags=("old",), description="ancient")
        cache.put([new])
        cache.put([old])
        cache.put([new, old])
        assert cache.search(Query()).items == [new]
        assert cache.search(Query(tags=("old",))).items == []
        assert cache.search(Query(words=("ancient",))).items == []
        assert cache.totals() == Totals(1, 7)

    def test_a_removed_entry_is_gone_when_remove_returns(self, cache: Cache) -> None:
        gone, kept = make_attr(size=1, tags=("t",)), make_attr(size=2, tags=("t",))
        cache.put([gone, kept])
        cache.remove([gone.file_id])
        assert cache.key(gone.file_id) is None
        assert cache.search(Query(tags=("t",), words=("report",))).items == [kept]
        assert cache.ids_in(gone.storage_path) == {kept.storage_filename: kept.file_id}
        assert cache.totals() == Totals(1, 2)

    def test_removing_what_does_not_exist_is_no_error(self, cache: Cache) -> None:
        attr = make_attr()
        cache.remove([attr.file_id, *map(FileId, ("never-an-id", "", "\ud800"))])
        cache.put([attr])
        cache.remove([attr.file_id, attr.file_id])
        cache.remove([attr.file_id])
        assert cache.totals() == Totals(0, 0)

    def test_a_removed_entry_may_come_back_with_any_revision(self, cache: Cache) -> None:
        attr = make_attr(revision=5)
        cache.put([attr])
        cache.remove([attr.file_id])
        again = make_attr(file_id=attr.file_id, revision=1)
        cache.put([again])
        assert cache.search(Query()).items == [again]

    def test_thousands_of_entries_in_one_call(self, cache: Cache) -> None:
        attrs = [make_attr(size=1, description=f"number {n}") for n in range(2500)]
        cache.put(attrs)
        assert cache.totals() == Totals(2500, 2500)
        assert cache.search(Query(words=("number 1234",))).items == [attrs[1234]]
        cache.remove(ids(attrs[:2400]))
        assert cache.totals() == Totals(100, 100)

    @pytest.mark.parametrize(
        "changes",
        [
            {"description": ODD_TEXT, "tags": ("привет", "标签", "İı", "a" * 100), "uploaded_by": "Ω\u0301"},
            {
                "original_filename": "отчёт e\u0301\U0001f600.pdf",
                "metadata": {ODD_TEXT: [ODD_TEXT, None, True, 1.5]},
            },
            {"metadata": {"big": 2**80, "tiny": 1e-300, "zero": -0.0, "deep": {"a": [{"b": []}]}}},
            {"from_the_future": {"x": [1, 2.5, None, "é"]}, "another key": "v", "id": 7, "words": "w"},
            {"size": 0, "revision": 2**40, "tags": ("a", "b", "a")},
            {"content_type": 'text/plain; charset="utf-8"', "size": 2**50},
        ],
    )
    def test_an_attr_is_read_back_whole(self, cache: Cache, changes: dict[str, Any]) -> None:
        attr = make_attr(**changes)
        cache.put([attr])
        (found,) = cache.search(Query()).items
        assert found == attr
        assert found.model_dump_json() == attr.model_dump_json()

    def test_key_of_an_unknown_id_is_none(self, cache: Cache) -> None:
        cache.put([make_attr()])
        for unknown in (make_attr().file_id, *map(FileId, ("", "%", "\0", "\ud800"))):
            assert cache.key(unknown) is None

    def test_a_directory_has_its_entries_and_no_others(self, cache: Cache) -> None:
        here = [make_attr(storage_path="2025/01/11/15") for _ in range(3)]
        others = [make_attr(storage_path=path) for path in ("2025/01/11", "2025/01/11/16", "2025/01/11/1")]
        cache.put(here + others)
        assert cache.ids_in("2025/01/11/15") == {a.storage_filename: a.file_id for a in here}
        for empty in ("", "2025/01/11/15/", "2025/01/11/%", "\ud800"):
            assert cache.ids_in(empty) == {}

    def test_the_entries_of_a_directory_are_whole(self, cache: Cache) -> None:
        here = [
            make_attr(
                original_filename=f"{ODD_TEXT[:9]}{n}", description=ODD_TEXT, tags=("t", ODD_TEXT[:5]),
                metadata={"n": [n, None]}, a_key_of_tomorrow={"kept": ODD_TEXT}, revision=n % 3 + 1,
            )
            for n in range(2500)
        ]  # fmt: skip
        cache.put([*here, make_attr(storage_path="2025/01/11/16")])
        assert dict(cache.entries_in("2025/01/11/15")) == {attr.file_id: attr for attr in here}
        for empty in ("2025/01/11", "2025/01/11/1", "", "nowhere", "\ud800"):
            assert list(cache.entries_in(empty)) == []

    def test_the_entries_of_a_directory_follow_every_change(self, cache: Cache) -> None:
        old = make_attr(description="one")
        cache.put([old])
        new = make_attr(file_id=old.file_id, revision=2, description="two")
        cache.put([new])
        assert list(cache.entries_in(old.storage_path)) == [(old.file_id, new)]
        cache.remove([old.file_id])
        assert list(cache.entries_in(old.storage_path)) == []

    def test_directories_are_listed_in_order(self, cache: Cache) -> None:
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

    def test_a_new_cache_has_no_generation(self, cache: Cache) -> None:
        assert cache.generation() is None

    def test_the_generation_last_set_is_returned(self, cache: Cache) -> None:
        for generation in ("first", "second é \U0001f600", ""):
            cache.set_generation(generation)
            assert cache.generation() == generation

    def test_set_generation_replaces_only_the_expected_one(self, cache: Cache) -> None:
        for there in (None, "first"):
            with pytest.raises(Unavailable):
                cache.set_generation("second", if_match="zeroth")
            assert cache.generation() == there
            cache.set_generation("first")
        cache.set_generation("second", if_match="first")
        assert cache.generation() == "second"

    def test_clear_removes_entries_and_generation_and_the_cache_still_works(self, cache: Cache) -> None:
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

    def test_entries_outlive_the_process(self, cache: Cache, reopen: Callable[[], Cache] | None) -> None:
        if reopen is None:
            assert cache.generation() is None  # then the kernel rebuilds it
            return
        attrs = [make_attr(size=n, tags=(f"t{n}",), description=f"text {n}") for n in range(20)]
        cache.put(attrs)
        cache.set_generation("kept")
        cache.remove([attrs[0].file_id])
        cache.flush()
        again = reopen()
        assert again.generation() == "kept"
        assert again.totals() == Totals(19, sum(range(20)))
        assert again.search(Query(words=("text 7",), tags=("t7",))).items == [attrs[7]]
        assert again.key(attrs[0].file_id) is None
        again.put([attrs[0]])
        assert ids(again.search(Query(sort="size", descending=False)).items) == ids(attrs)

    def test_a_database_that_does_not_answer_raises_unavailable(
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
            pytest.fail(f"step {number} did not raise `Unavailable`")

    def test_close_can_be_called_twice(self, cache: Cache) -> None:
        cache.put([make_attr()])
        cache.close()
        cache.close()

    def test_each_thread_finds_what_it_wrote(self, cache: Cache) -> None:
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

    def test_threads_that_write_one_entry_leave_the_newest(self, cache: Cache) -> None:
        file_id = make_attr().file_id
        revisions = [make_attr(file_id=file_id, revision=n, size=n, tags=(f"r{n}",)) for n in range(1, 65)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda attr: cache.put([attr]), revisions[::-1]))
        assert cache.search(Query()).items == [revisions[-1]]
        assert cache.search(Query(tags=("r64",))).items == [revisions[-1]]
        assert cache.totals() == Totals(1, 64)
