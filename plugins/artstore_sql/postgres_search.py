"""From a `Query` to SQL that PostgreSQL answers quickly, whatever it believes of how common a value is.

Two steps. The first walks along the order of the page, a few thousand rows at most: where many rows meet the
conditions the page is full at once. Where it is not, few do, and the second step starts from their indexes and
sorts what it finds; its order is written so that no index fits it, or the walk would only be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, cast, func, literal, select, tuple_
from sqlalchemy.sql.expression import FromClause

from artstore.spi import Query
from artstore_sql.grams import probes
from artstore_sql.postgres_tables import Tables
from artstore_sql.search import position
from artstore_sql.tables import LARGEST
from artstore_sql.words import wanted

WALK = 5000
"""Rows that are walked through in a few milliseconds: where 100 of them do not meet the conditions, 2 % do."""
_FURTHER = 4
"""How much further a second walk goes, when the first one makes us believe that it will fill the page."""
_PROBED = 64
"""Parts of words that are looked for in the index; what it finds is looked at again anyway."""


def found(connection: Connection, tables: Tables, query: Query) -> list[str]:
    """The attrs of the page as JSON, and one more when there is a next page."""
    files = tables.files
    if not any(True for _ in _conditions(files, query)):
        return list(connection.execute(_page(select(files.c.attr), files, query)).scalars())
    for reach in () if query.sha256 is not None else (WALK, WALK * _FURTHER):
        near = list(connection.execute(walk(files, query, reach)).scalars())
        if len(near) > query.limit:
            return near
        if len(near) * _FURTHER <= query.limit:
            break
    return list(connection.execute(narrow(files, query)).scalars())


def walk(files: FromClause, query: Query, reach: int) -> Select[Any]:
    """The page, as far as it can be filled from the `reach` rows that come next in order."""
    rows = select(files).where(*_bounds(files, query))
    some = _page(rows, files, query).limit(reach).subquery()
    near = select(some.c.attr).where(*_conditions(some, query, indexed=False))
    return _ordered(near, [some.c[query.sort], some.c.file_id], query).limit(query.limit + 1)


def narrow(files: FromClause, query: Query) -> Select[Any]:
    """The page, out of all rows that meet the conditions."""
    nothing: Any = literal(0) if query.sort == "size" else literal("", Text)
    order = [files.c[query.sort].op("+" if query.sort == "size" else "||")(nothing), files.c.file_id]
    rows = select(files.c.attr).where(*_conditions(files, query))
    return _page(rows, files, query, order)


def _page(
    rows: Select[Any], files: FromClause, query: Query, order: list[ColumnElement[Any]] | None = None
) -> Select[Any]:
    order = order or [files.c[query.sort], files.c.file_id]
    if query.after is not None:
        here, there = tuple_(*order), position(query, query.after)
        rows = rows.where(here < there if query.descending else here > there)
    return _ordered(rows, order, query).limit(query.limit + 1)


def _ordered(rows: Select[Any], order: list[ColumnElement[Any]], query: Query) -> Select[Any]:
    return rows.order_by(*(column.desc() if query.descending else column.asc() for column in order))


def _bounds(files: FromClause, query: Query) -> Iterator[ColumnElement[bool]]:
    """The conditions that say where a walk begins and ends; not where it goes on from, which says more."""
    below = query.after is None or query.descending
    above = query.after is None or not query.descending
    if query.sort == "size":
        yield from _sizes(files, query, below=below, above=above)
    elif query.sort == "uploaded_at":
        yield from _times(files, query, below=below, above=above)
    elif query.filename is not None:
        yield files.c.original_filename == query.filename


def _conditions(files: FromClause, query: Query, *, indexed: bool = True) -> Iterator[ColumnElement[bool]]:
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
    yield from _times(files, query)
    words = wanted(query.words)
    parts = list(dict.fromkeys(part for word in words for part in probes(word)))[:_PROBED]
    if parts and indexed:
        yield column.parts.op("@>")(cast(parts, column.parts.type))
    for word in words:
        yield func.strpos(column.words, word) > 0


def _sizes(
    files: FromClause, query: Query, *, below: bool = True, above: bool = True
) -> Iterator[ColumnElement[bool]]:
    if query.min_size is not None and below:
        yield files.c.size >= max(query.min_size, 0)
    if query.max_size is not None and above:
        yield files.c.size <= min(query.max_size, LARGEST)


def _times(
    files: FromClause, query: Query, *, below: bool = True, above: bool = True
) -> Iterator[ColumnElement[bool]]:
    if query.uploaded_after is not None and below:
        yield files.c.uploaded_at > query.uploaded_after
    if query.uploaded_before is not None and above:
        yield files.c.uploaded_at < query.uploaded_before
