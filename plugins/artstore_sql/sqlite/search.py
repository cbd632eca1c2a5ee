"""From a `Query` to SQL.

SQLite does not know how common a value is, and guesses badly: it sorts a million rows to show a hundred
of them, or walks through a million to find one. So the index in the order of the page is walked for a short
while. Where many rows meet the conditions that fills the page, or shows that it will. Otherwise the search counts
how many rows meet each condition, starts from those of the rarest and sorts them; where even those are very many, it
walks on and fetches no others. A unary plus (`no_index`) keeps SQLite from using any other index.

What takes the time is to fetch rows that lie far apart, a page of the file each. So names, by which rows that were
uploaded together are not together, lie beside the ids in an index of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isqrt
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    func,
    literal_column,
    not_,
    select,
    text,
    tuple_,
)

from artstore.spi import Cursor, Query
from artstore_sql.pages import ordered, position
from artstore_sql.sqlite.conditions import Condition, conditions, no_index
from artstore_sql.tables import Tables

_NEAR = 8
"""The share of the fewest rows that the first walk reads."""
_ENTRIES = 16
"""Entries of an index that are read while one row is fetched."""


def execute(connection: Connection, tables: Tables, query: Query, *, indexed: bool) -> list[str]:
    """Return the attrs of the page as JSON, and one more when there is a next page."""
    must = list(conditions(tables, query, indexed=indexed))
    if not must:
        return _run(connection, scan_in_order(tables, query, must, query.after))
    files = connection.execute(select(tables.totals.c.files)).scalar_one()
    few = fewest(files, query)
    page, end = _scan_part(connection, tables, query, must, query.after, few // _NEAR, query.limit + 1)
    if len(page) > query.limit or end is None:
        return page
    sets = [one.ids for one in must if one.ids is not None]
    rarest = _rarest(connection, [one.quick for one in must if one.quick is not None], few, few)
    if rarest is None and len(page) * _NEAR >= query.limit:
        further = 2 * (few // _NEAR) * query.limit // len(page)
        more, end = _scan_part(connection, tables, query, must, end, further, query.limit + 1 - len(page))
        if len(page) + len(more) > query.limit or end is None:
            return page + more
    rarest = rarest or _rarest(connection, sets, few, max(few, files // _ENTRIES))
    if rarest is None:
        return _run(
            connection, scan_in_order(tables, query, must, query.after, among=sets[0] if sets else None)
        )
    size, ids = rarest
    if indexed and size > few and query.sort == "original_filename" and len(_tests(must)) == 1:
        page = _run(connection, filter_by_ids(tables, query, must, _first(connection, tables, query, ids)))
        if len(page) > query.limit:
            return page
    return _run(connection, filter_by_ids(tables, query, must, ids))


def _first(connection: Connection, tables: Tables, query: Query, ids: str) -> str:
    """Return those of `ids` whose names come first: enough for a page when most of them meet the conditions."""
    named = connection.execute(order_by_name(tables, query, ids)).all()
    last = named[-1].name if len(named) > 2 * query.limit else None  # there may be more of this name
    return json.dumps([one.id for one in named if one.name != last])


def fewest(files: int, query: Query) -> int:
    """Return how many of `files` rows are fetched and sorted in the time in which a walk past them fills the page."""
    return max(_NEAR, isqrt(query.limit * files))


def _rarest(
    connection: Connection, sets: list[Select[tuple[int]]], few: int, many: int
) -> tuple[int, str] | None:
    """Return the first set of at most `few` ids, else the smallest of at most `many`: its size, and its ids as JSON."""
    least, smallest = many, None
    for ids in sets:
        some = ids.limit(many + 1).subquery()
        wanted = select(func.count(), func.json_group_array(some.c[0])).select_from(some)
        size, found_ids = connection.execute(wanted).one()
        if size <= least:
            least, smallest = size, (size, str(found_ids))
        if size <= few:
            break
    return smallest


def _run(connection: Connection, rows: Select[tuple[str]]) -> list[str]:
    return [row.attr for row in connection.execute(rows)]


def _scan_part(
    connection: Connection,
    tables: Tables,
    query: Query,
    must: list[Condition],
    start: Cursor | None,
    reach: int,
    wanted: int,
) -> tuple[list[str], Cursor | None]:
    """Return what is `wanted` among the `reach` rows after `start`, and where these end unless all rows end there."""
    order = _order(tables, query)
    ahead = select(*order).where(*_stretch(order, query, must, start))
    last = connection.execute(ordered(ahead, order, query).offset(reach - 1).limit(1)).one_or_none()
    end = None if last is None else Cursor(*last)
    return _run(connection, scan_in_order(tables, query, must, start, end).limit(wanted)), end


def scan_in_order(
    tables: Tables,
    query: Query,
    must: list[Condition],
    start: Cursor | None,
    end: Cursor | None = None,
    among: Select[tuple[int]] | None = None,
) -> Select[tuple[str]]:
    """Return the statement for a page from the rows in order: after `start`, up to `end`, with ids of `among`."""
    order = _order(tables, query)
    rows = select(tables.files.c.attr).where(*_tests(must), *_stretch(order, query, must, start, end))
    if among is not None:
        rows = rows.where(no_index(tables.files.c.id).in_(among))
    return ordered(rows, order, query).limit(query.limit + 1)


def filter_by_ids(tables: Tables, query: Query, must: list[Condition], ids: str) -> Select[tuple[str]]:
    """Return the statement for a page from the rows with these `ids`, a JSON array."""
    files = tables.files
    order = [no_index(column) for column in _order(tables, query)]
    those = func.json_each(ids).table_valued("value")
    rows = select(files.c.attr).where(files.c.id == those.c.value, *_tests(must))
    if query.after is not None:
        rows = rows.where(_after(order, query, query.after))
    return ordered(rows, order, query).limit(query.limit + 1)


def order_by_name(tables: Tables, query: Query, ids: str) -> Select[Any]:
    """Return the statement for the first by name of the rows with these `ids`. It does not read the rows."""
    files = tables.files.name
    source = text(
        f"json_each(:ids) AS those CROSS JOIN {files} INDEXED BY {files}_names ON {files}.id = those.value"
    )
    number: ColumnElement[int] = literal_column(f"{files}.id", Integer)
    name: ColumnElement[str] = no_index(literal_column("original_filename", Text))
    rows: Any = select(number.label("id"), name.label("name")).select_from(source.bindparams(ids=ids))
    if query.after is not None:
        rows = rows.where(name <= query.after.value if query.descending else name >= query.after.value)
    return ordered(rows, [name], query).limit(2 * query.limit + 1)


def _tests(must: list[Condition]) -> list[ColumnElement[bool]]:
    return [one.test for one in must if one.test is not None]


def _order(tables: Tables, query: Query) -> list[ColumnElement[Any]]:
    return [tables.files.c[query.sort], tables.files.c.file_id]


def _stretch(
    order: list[ColumnElement[Any]],
    query: Query,
    must: list[Condition],
    start: Cursor | None,
    end: Cursor | None = None,
) -> Iterator[ColumnElement[bool]]:
    """Return where a walk begins and where it ends: one limit each, since of two SQLite might use either."""
    for one in must:
        if (end if not query.descending else start) is None:
            yield from one.high
        if (start if not query.descending else end) is None:
            yield from one.low
    if start is not None:
        yield _after(order, query, start)
    if end is not None:
        yield not_(_after(order, query, end))


def _after(order: list[ColumnElement[Any]], query: Query, start: Cursor) -> ColumnElement[bool]:
    here, there = tuple_(*order), position(query, start)
    behind: ColumnElement[bool] = here < there if query.descending else here > there
    return behind
