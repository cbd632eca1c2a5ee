"""How quickly a cache answers over many rows: `python bench/cache.py [--rows 1000000] [--url postgresql://...]`

Without a url it measures SQLite in a temporary directory. Times are the best of three, in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from artstore.attr import Attr
from artstore.spi import Cache, Context, Cursor, Query, Sort
from artstore_sql.provider import Sql
from artstore_sql.settings import SqlSettings

PAGE = 100
BATCH = 1000
SORTS: tuple[Sort, ...] = ("uploaded_at", "size", "original_filename")
COMMON = [
    "report",
    "invoice",
    "contract",
    "draft",
    "scan",
    "final",
    "quarter",
    "annual",
    "budget",
    "photo",
    "backup",
    "plan_07",
    "invoice_2025",
    "project",
    "отчёт",
    "договор",
    "счёт",
    "акт",
    "смета",
    "протокол",
    "поставка",
    "письмо",
    "отдел",
    "архив",
]
WORDS = """отчёт
invoice_2025
plan_07 смета
report отчёт budget акт
0123456
apple
batch01
batch01 batch40
batch01 отчёт
f0f0f
00000000
07
合同
zq
q
同
ъ
😀😀
absent
report absent""".splitlines()
FILTERS: list[dict[str, Any]] = [
    {"uploaded_by": "user7"},
    {"uploaded_by": "auditor"},
    {"content_type": "application/pdf"},
    {"content_type": "video/mp4"},
    {"tags": ("done",)},
    {"tags": ("done", "lost")},
    {"uploaded_after": "2025-06-10T00", "uploaded_before": "2025-06-11T00"},
    {"uploaded_after": "2025-02-01T00", "uploaded_before": "2025-03-01T00"},
    {"min_size": 9_999_000},
    {"max_size": 5_000_000},
    {"uploaded_by": "user7", "content_type": "image/png"},
    {"uploaded_by": "user7", "content_type": "video/mp4"},
    {"uploaded_by": "user7", "uploaded_after": "2025-02-01T00", "uploaded_before": "2025-03-01T00"},
    {"words": ("отчёт",), "uploaded_by": "user7"},
    {"words": ("отчёт",), "uploaded_by": "auditor"},
    {"words": ("отчёт",), "content_type": "video/mp4"},
    {"words": ("отчёт",), "tags": ("done",), "min_size": 5_000_000},
    {"words": ("отчёт",), "uploaded_after": "2025-02-01T00", "uploaded_before": "2025-03-01T00"},
    {"words": ("batch01",), "uploaded_by": "user7"},
    {"words": ("batch01",), "content_type": "video/mp4"},
    {"words": ("batch01",), "uploaded_after": "2025-02-01T00"},
    {"words": ("07",), "content_type": "text/plain"},
    {"words": ("zq",), "content_type": "application/pdf"},
]


def rows(count: int) -> Iterator[Attr]:
    """In the order of upload: words and types from everywhere, a few, and in one stretch of time alone."""
    dice = random.Random(1)
    for n in range(count):
        file_id = f"01945679-{n >> 16 & 0xFFFF:04x}-7d21-8000-{n:012x}"
        at = f"2025-{n * 12 // count + 1:02}-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:{n // 7 % 60:02}.{n % 1000:03}Z"
        kind = dice.choices(("application/pdf", "image/png", "text/plain", "video/mp4"), (800, 150, 49, 1))[0]
        stem = dice.choice(COMMON) if dice.random() > 0.03 else "apple"
        text = (
            " ".join(dice.choices(COMMON, k=6)) + f" {dice.getrandbits(24):x} batch{n * 40 // count + 1:02}"
        )
        yield Attr(
            file_id=file_id, original_filename=f"{stem}_{dice.choice(COMMON)}_{n:07}.pdf",
            storage_filename=f"{n}.pdf", storage_path=f"{at[:4]}/{at[5:7]}/{at[8:10]}/{at[11:13]}",
            size=dice.randrange(10**7), content_type=kind, sha256=f"{n:064x}",
            uploaded_by="auditor" if n % 100_003 == 0 else f"user{n % 50}",
            uploaded_by_id="1", uploaded_at=at, updated_at=at, revision=1,
            tags=("done",) if n % 4 == 0 else ("done", "lost") if n % 10_007 == 0 else (),
            description=text + (" 合同" if n % 5000 == 0 else ""),
        )  # fmt: skip


def best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def fill(cache: Cache, count: int) -> float:
    started = time.perf_counter()
    some: list[Attr] = []
    for attr in rows(count):
        some.append(attr)
        if len(some) == BATCH:
            cache.put(some)
            some = []
    cache.put(some)
    cache.flush()
    return time.perf_counter() - started


def deep(cache: Cache, pages: int) -> Cursor | None:
    """Where page number `pages` begins."""
    after: Cursor | None = None
    while pages > 1:
        step = min(pages - 1, 10)
        after = cache.search(Query(limit=PAGE * step, after=after)).next
        pages -= step
    return after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url")
    parser.add_argument("--home", type=Path, help="keep SQLite's file there, and use it again")
    args = parser.parse_args()
    with ExitStack() as stack:
        path = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = SecretStr(args.url) if args.url else None
        settings = SqlSettings(url=url, table_prefix="bench_", timeout=600)
        cache: Cache = Sql(settings, Context(home=path, files=path / "files", state=path / "state"))
        stack.callback(cache.close)
        if cache.totals().files != args.rows:
            cache.clear()
            took = fill(cache, args.rows)
            print(
                f"fill          {took:8.1f} s for {args.rows} rows, {args.rows / took:.0f} a second",
                flush=True,
            )
        first = best(lambda: cache.search(Query(limit=PAGE)))
        number = min(10_000, args.rows // PAGE - 1)
        there = deep(cache, number)
        late = best(lambda: cache.search(Query(limit=PAGE, after=there)))
        print(f"page 1        {first:8.1f} ms\npage {number:<8} {late:8.1f} ms")
        print(f"totals        {best(cache.totals):8.1f} ms")
        print("    ms by " + ", ".join(SORTS) + " (rows of the first page)")
        for words in WORDS:
            measure(cache, words, {"words": tuple(words.split())})
        for condition in FILTERS:
            measure(cache, " ".join(str(value) for value in condition.values()), condition)


def measure(cache: Cache, label: str, condition: dict[str, Any]) -> None:
    queries = [Query(sort=sort, limit=PAGE, **condition) for sort in SORTS]
    took = [best(lambda query=query: cache.search(query)) for query in queries]  # type: ignore[misc]
    found = len(cache.search(queries[0]).items)
    print("".join(f"{one:9.1f}" for one in took) + f"  ({found:3})  {label}", flush=True)


if __name__ == "__main__":
    main()
