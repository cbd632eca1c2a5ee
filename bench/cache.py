"""How quickly a cache answers over many rows: `python bench/cache.py [--rows 1000000] [--url postgresql://...]`

Without a url it measures SQLite in a temporary directory. Times are the best of three, in milliseconds.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import SecretStr

from artstore.attr import Attr
from artstore.spi import Cache, Context, Position, Query
from artstore_sql.cache import SqlSettings
from artstore_sql.provider import Sql

PAGE = 100
BATCH = 1000
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
0123456
report отчёт budget акт
07
ет
zq
ъ
absent""".splitlines()


def rows(count: int) -> Iterator[Attr]:
    dice = random.Random(1)
    for n in range(count):
        file_id = f"01945679-{n >> 16 & 0xFFFF:04x}-7d21-8000-{n:012x}"
        at = f"2025-{n * 12 // count + 1:02}-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:{n // 7 % 60:02}.{n % 1000:03}Z"
        yield Attr(
            file_id=file_id, original_filename=f"{dice.choice(COMMON)}_{dice.choice(COMMON)}_{n:07}.pdf",
            storage_filename=f"{n}.pdf", storage_path=f"{at[:4]}/{at[5:7]}/{at[8:10]}/{at[11:13]}",
            size=dice.randrange(10**7), content_type="application/pdf", sha256=f"{n:064x}", uploaded_by=f"user{n % 50}",
            uploaded_by_id="1", uploaded_at=at, updated_at=at, revision=1,
            description=" ".join(dice.choices(COMMON, k=6)) + f" {dice.getrandbits(24):x}",
        )  # fmt: skip


def best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times) * 1000


def fill(cache: Cache, count: int) -> float:
    begun = time.perf_counter()
    some: list[Attr] = []
    for attr in rows(count):
        some.append(attr)
        if len(some) == BATCH:
            cache.put(some)
            some = []
    cache.put(some)
    cache.flush()
    return time.perf_counter() - begun


def deep(cache: Cache, pages: int) -> Position | None:
    """Where page number `pages` begins."""
    after: Position | None = None
    while pages > 1:
        step = min(pages - 1, 10)
        after = cache.search(Query(limit=PAGE * step, after=after)).next
        pages -= step
    return after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        url = SecretStr(args.url) if args.url else None
        settings = SqlSettings(url=url, table_prefix="bench_", timeout=600)
        path = Path(home)
        cache: Cache = Sql(settings, Context(home=path, files=path / "files", state=path / "state"))
        if cache.totals().files != args.rows:
            cache.clear()
            print(f"fill          {fill(cache, args.rows):8.1f} s for {args.rows} rows", flush=True)
        first = best(lambda: cache.search(Query(limit=PAGE)))
        number = min(10_000, args.rows // PAGE - 1)
        there = deep(cache, number)
        late = best(lambda: cache.search(Query(limit=PAGE, after=there)))
        print(f"page 1        {first:8.1f} ms\npage {number:<8} {late:8.1f} ms")
        for words in WORDS:
            for sort in ("uploaded_at", "size"):
                query = Query(words=tuple(words.split()), sort=sort, limit=PAGE)
                found = len(cache.search(query).items)
                took = best(lambda query=query: cache.search(query))  # type: ignore[misc]
                print(f"{took:8.1f} ms  {found:3} rows by {sort:11}  {words}", flush=True)
        print(f"totals        {best(cache.totals):8.1f} ms")
        cache.close()


if __name__ == "__main__":
    main()
