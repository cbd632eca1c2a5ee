"""From a `Query` to SQL.

SQLite knows nothing of how common a value is, and guesses badly: it sorts a million rows to show a hundred
of them, or walks through a million to find one. So we ask first: where few rows meet a condition, the search
starts from those and sorts them; where every condition is met by many, the index in the order of the page is
walked until the page is full. A unary plus keeps SQLite from using any other index.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    column,
    func,
    literal_column,
    select,
    table,
    true,
    tuple_,
)
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from artstore.errors import InvalidField
from artstore.spi import Position, Query
from artstore_sql.tables import LARGEST, Tables
from artstore_sql.words import wanted

FEW = 4000
"""Rows that are quicker fetched and sorted than waited for on a walk through a million."""
_TRIGRAMS = 16
_PROBED_TAGS = 8
_TOGETHER = 50
"""Words in one expression: SQLite bounds both the depth of a condition and a function's arguments."""


@dataclass(frozen=True, slots=True)
class _Condition:
    """What rows must meet.

    `ids` selects the rows that do (and perhaps some more) by an index. `bound` is the same condition in
    a form that limits a walk along the order of the page.
    """

    test: ColumnElement[bool]
    ids: Select[tuple[int]] | None = None
    bound: ColumnElement[bool] | None = None


def statement(connection: Connection, tables: Tables, query: Query, *, indexed: bool) -> Select[tuple[str]]:
    """What selects the rows of the page, and one more when there is a next page."""
    files = tables.files
    conditions = list(_conditions(tables, query, indexed=indexed))
    narrow = next((c.ids for c in conditions if c.ids is not None and _few(connection, c.ids)), None)
    order: list[ColumnElement[Any]] = [files.c[query.sort], files.c.file_id]
    where = [c.test for c in conditions]
    if narrow is None:
        where += [c.bound for c in conditions if c.bound is not None]
    else:
        where.append(files.c.id.in_(narrow))
        order = [_plus(column) for column in order]
    if query.after is not None:
        here, there = tuple_(*order), position(query)
        where.append(here < there if query.descending else here > there)
    return (
        select(files.c.attr)
        .where(*where)
        .order_by(*(column.desc() if query.descending else column.asc() for column in order))
        .limit(query.limit + 1)
    )


def possible(query: Query) -> bool:
    """Whether a row could match: none holds what UTF-8 cannot say."""
    texts = (*query.words, *query.tags, query.filename, query.uploaded_by, query.content_type, query.sha256)
    times = (query.uploaded_after, query.uploaded_before)
    try:
        for one in (*texts, *times):
            if one is not None:
                one.encode()
    except UnicodeEncodeError:
        return False
    return (query.min_size or 0) < LARGEST and (query.max_size is None or query.max_size >= 0)


def position(query: Query) -> Any:
    value, file_id = query.after or Position("", "")
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    try:
        fits = number if query.sort == "size" else isinstance(value, str) and bool(value.encode() or True)
        file_id.encode()
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InvalidField("cursor", "The position does not belong to this order.")
    return tuple_(value, file_id)


def _few(connection: Connection, ids: Select[tuple[int]]) -> bool:
    some = ids.limit(FEW + 1).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one() <= FEW


def _conditions(tables: Tables, query: Query, *, indexed: bool) -> Iterator[_Condition]:
    """The conditions, those that few rows are likely to meet first."""

    def condition(name: str, meets: Callable[[ColumnElement[Any]], ColumnElement[bool]]) -> _Condition:
        column, other = tables.files.c[name], tables.files.alias()
        return _Condition(
            test=meets(_plus(column)),
            ids=select(other.c.id).where(meets(other.c[name])),
            bound=meets(column) if name == query.sort else None,
        )

    if query.sha256 is not None:
        yield condition("sha256", lambda column: column == query.sha256)
    if query.filename is not None:
        yield condition("original_filename", lambda column: column == query.filename)
    yield from _tags(tables, query)
    yield from _words(tables, query, indexed=indexed)
    if query.uploaded_by is not None:
        yield condition("uploaded_by", lambda column: column == query.uploaded_by)
    if query.content_type is not None:
        yield condition("content_type", lambda column: column == query.content_type)
    sizes = (
        None if query.min_size is None else max(query.min_size, 0),
        None if query.max_size is None else min(query.max_size, LARGEST),
    )
    if sizes != (None, None):
        yield condition("size", partial(_between, operator.ge, operator.le, *sizes))
    times = (query.uploaded_after, query.uploaded_before)
    if times != (None, None):
        yield condition("uploaded_at", partial(_between, operator.gt, operator.lt, *times))


def _between(
    above: Callable[[Any, Any], Any],
    below: Callable[[Any, Any], Any],
    low: str | int | None,
    high: str | int | None,
    column: ColumnElement[Any],
) -> ColumnElement[bool]:
    bounds = [] if low is None else [above(column, low)]
    bounds += [] if high is None else [below(column, high)]
    return and_(*bounds)


def _tags(tables: Tables, query: Query) -> Iterator[_Condition]:
    wanted_tags = sorted(set(query.tags))
    tags = tables.tags.c
    if wanted_tags:
        held = select(func.count()).where(tags.file == tables.files.c.id, tags.tag.in_(wanted_tags))
        test = held.correlate(tables.files).scalar_subquery() == len(wanted_tags)
        yield _Condition(test, select(tags.file).where(tags.tag == wanted_tags[0]))
    for tag in wanted_tags[1:_PROBED_TAGS]:
        yield _Condition(true(), select(tags.file).where(tags.tag == tag))


def _words(tables: Tables, query: Query, *, indexed: bool) -> Iterator[_Condition]:
    words = wanted(query.words)
    for start in range(0, len(words), _TOGETHER):
        places = [func.instr(tables.files.c.words, word) for word in words[start : start + _TOGETHER]]
        # min() of one argument would be the aggregate.
        place = func.min(*places) if len(places) > 1 else places[0]
        ids = _by_trigrams(tables, words) if indexed and start == 0 else None
        yield _Condition(place > 0, ids)


def _by_trigrams(tables: Tables, words: list[str]) -> Select[tuple[int]] | None:
    parts: dict[str, None] = {}
    for word in words[:_TRIGRAMS]:
        parts.update(dict.fromkeys(word[i : i + 3] for i in range(min(len(word) - 2, _TRIGRAMS))))
    if not parts:
        return None
    match = " AND ".join('"' + part.replace('"', '""') + '"' for part in parts)
    index = table(f"{tables.prefix}parts", column("rowid", Integer))
    return select(index.c.rowid).where(literal_column(f"{tables.prefix}parts").op("MATCH")(match))


def _plus(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)
