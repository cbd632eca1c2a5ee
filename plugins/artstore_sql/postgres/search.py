"""From a `Query` to SQL that PostgreSQL answers quickly, whatever its planner assumes of how common a value is.

First a walk along the order of the page, some thousand rows at most: where many rows meet the conditions the page is
full at once. Where it is not, few do, and a second step starts from their indexes and sorts what it finds; its order
is written so that no index fits it, or the walk would only be repeated. An index of words costs as much as the lists
are long that it goes through, so several words are first looked for by few parts of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Select, Text, cast, func, literal, select, tuple_
from sqlalchemy.sql.expression import FromClause

from artstore.spi import Query
from artstore_sql.pages import ordered, position
from artstore_sql.postgres.tables import Tables
from artstore_sql.tables import LARGEST
from artstore_sql.text import words_to_find
from artstore_sql.trigrams import trigram_codes

WALK = 1250
"""Rows that are walked through in a few milliseconds: where 8 % of them meet the conditions they fill a page of 100."""
_FURTHER = 4
"""The factor by which the next walk is longer, when the last one shows that it will likely fill the page."""
FEW = 8000
"""Rows that are fetched in some milliseconds."""
_LISTS = 4
"""Lists of the index of words that the first attempt reads."""
_PROBED = 64
"""N-grams of words that are searched in the index. Each row that it finds is compared with the words again."""


def execute(connection: Connection, tables: Tables, query: Query) -> list[str]:
    """Return the attrs of the page as JSON, and one more when there is a next page."""
    files = tables.files
    if not any(True for _ in _conditions(files, query)):
        return list(connection.execute(_page(select(files.c.attr), files, query)).scalars())
    for reach in () if query.sha256 is not None else (WALK, WALK * _FURTHER, WALK * _FURTHER**2):
        near = list(connection.execute(scan_in_order(files, query, reach)).scalars())
        if len(near) > query.limit:
            return near
        if len(near) * _FURTHER <= query.limit:
            break
    if some := _selective_codes(files, query):
        size, page = connection.execute(count_and_page(files, query, some)).one()
        if size <= FEW:
            return list(page)
    return list(connection.execute(filter_and_sort(files, query)).scalars())


def scan_in_order(files: FromClause, query: Query, reach: int) -> Select[Any]:
    """Return the page, as far as the `reach` rows that come next in order fill it."""
    rows = select(files).where(*_bounds(files, query))
    some = _page(rows, files, query).limit(reach).subquery()
    near = select(some.c.attr).where(*_conditions(some, query))
    return ordered(near, [some.c[query.sort], some.c.file_id], query).limit(query.limit + 1)


def filter_and_sort(files: FromClause, query: Query) -> Select[Any]:
    """Return the page, out of all rows that meet the conditions."""
    parts = _codes(words_to_find(query.words))
    rows = select(files.c.id).where(*_conditions(files, query))
    return _sorted(rows.where(_has_codes(files, parts)) if parts else rows, files, files, query)


def count_and_page(files: FromClause, query: Query, parts: list[int]) -> Select[Any]:
    """Return how many rows have these n-grams, at most `FEW` + 1, and the page if they are not more than `FEW`."""
    needed = select(files.c.id, files.c.file_id, files.c[query.sort], files.c.words)
    some = needed.where(_has_codes(files, parts)).limit(FEW + 1).cte().prefix_with("MATERIALIZED")
    size = select(func.count()).select_from(some).scalar_subquery()
    page = _sorted(select(some.c.id).where(size <= FEW, *_conditions(some, query)), some, files, query)
    return select(size, func.array(page.scalar_subquery(), type_=ARRAY(Text)))


def _selective_codes(files: FromClause, query: Query) -> list[int]:
    """Return a few n-grams of several words, where the query has only words and these have more n-grams."""
    words = words_to_find(query.words)
    if not 1 < len(words) == sum(1 for _ in _conditions(files, query)):
        return []
    some = _codes(words, max(1, _LISTS // len(words)))
    return some if len(some) < len(_codes(words)) else []


def _codes(words: list[str], most: int | None = None) -> list[int]:
    return list(dict.fromkeys(part for word in words for part in trigram_codes(word, most)))[:_PROBED]


def _has_codes(files: FromClause, parts: list[int]) -> ColumnElement[bool]:
    having: ColumnElement[bool] = files.c.parts.op("@>")(cast(parts, files.c.parts.type))
    return having


def _sorted(ids: Select[Any], rows: FromClause, files: FromClause, query: Query) -> Select[Any]:
    """Return the page out of these ids of `rows`. Its attrs are fetched after the sort."""
    nothing: Any = literal(0) if query.sort == "size" else literal("", Text)
    place = rows.c[query.sort].op("+" if query.sort == "size" else "||")(nothing).label("place")
    first = _page(ids.add_columns(place, rows.c.file_id), rows, query, [place, rows.c.file_id]).subquery()
    shown = files.alias()
    page = select(shown.c.attr).where(shown.c.id == first.c.id)
    return ordered(page, [first.c.place, first.c.file_id], query)


def _page(
    rows: Select[Any], files: FromClause, query: Query, order: list[ColumnElement[Any]] | None = None
) -> Select[Any]:
    order = order or [files.c[query.sort], files.c.file_id]
    if query.after is not None:
        here, there = tuple_(*order), position(query, query.after)
        rows = rows.where(here < there if query.descending else here > there)
    return ordered(rows, order, query).limit(query.limit + 1)


def _bounds(files: FromClause, query: Query) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that limit a walk, without those that the position of the cursor implies."""
    below = query.after is None or query.descending
    above = query.after is None or not query.descending
    if query.sort == "size":
        yield from _sizes(files, query, below=below, above=above)
    elif query.sort == "uploaded_at":
        yield from _upload_times(files, query, below=below, above=above)
    elif query.sort == "updated_at":
        yield from _update_times(files, query, below=below, above=above)
    elif query.filename is not None:
        yield files.c.original_filename == query.filename


def _conditions(files: FromClause, query: Query) -> Iterator[ColumnElement[bool]]:
    column = files.c
    if query.sha256 is not None:
        yield column.sha256 == query.sha256
    if query.filename is not None:
        yield column.original_filename == query.filename
    if query.uploaded_by is not None:
        yield column.uploaded_by == query.uploaded_by
    if query.content_type is not None:
        yield column.content_type == query.content_type
    if query.tags:
        yield column.tags.op("@>")(cast(sorted(set(query.tags)), column.tags.type))
    yield from _sizes(files, query)
    yield from _upload_times(files, query)
    yield from _update_times(files, query)
    for word in words_to_find(query.words):
        yield func.strpos(column.words, word) > 0


def _sizes(
    files: FromClause, query: Query, *, below: bool = True, above: bool = True
) -> Iterator[ColumnElement[bool]]:
    if query.min_size is not None and below:
        yield files.c.size >= max(query.min_size, 0)
    if query.max_size is not None and above:
        yield files.c.size <= min(query.max_size, LARGEST)


def _upload_times(
    files: FromClause, query: Query, *, below: bool = True, above: bool = True
) -> Iterator[ColumnElement[bool]]:
    if query.uploaded_after is not None and below:
        yield files.c.uploaded_at > query.uploaded_after
    if query.uploaded_before is not None and above:
        yield files.c.uploaded_at < query.uploaded_before


def _update_times(
    files: FromClause, query: Query, *, below: bool = True, above: bool = True
) -> Iterator[ColumnElement[bool]]:
    if query.updated_after is not None and below:
        yield files.c.updated_at > query.updated_after
    if query.updated_before is not None and above:
        yield files.c.updated_at < query.updated_before
