"""The conditions of a query in SQLite, each with the index that finds the rows that meet it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    column,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from artstore.spi import Query
from artstore_sql.tables import LARGEST, Tables
from artstore_sql.text import words_to_find
from artstore_sql.trigrams import LONGEST, selective_trigrams

_TRIGRAMS = 16
_PROBED_TAGS = 8
_PROBED_WORDS = 8
_TOGETHER = 50
"""Words in one expression: SQLite bounds both the depth of a condition and a function's arguments."""
_UNSAFE = frozenset("\ufffe\uffff")
"""Characters that FTS5 stores as another one."""


Limit = tuple[Callable[[Any, Any], Any], str | int]

_LOW = {operator.eq: operator.ge, operator.ge: operator.ge, operator.gt: operator.gt}
_HIGH = {operator.eq: operator.le, operator.le: operator.le, operator.lt: operator.lt}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that rows must meet.

    `test` decides it for a row, unless the test of another condition does. `ids` selects the rows that meet it (and
    perhaps some more), each once, by an index, and so does `quick` where that reads little for each row. `low` and
    `high` are the same condition as far as it limits a walk along the order of the page.
    """

    test: ColumnElement[bool] | None = None
    ids: Select[tuple[int]] | None = None
    quick: Select[tuple[int]] | None = None
    low: tuple[ColumnElement[bool], ...] = ()
    high: tuple[ColumnElement[bool], ...] = ()


def conditions(tables: Tables, query: Query, *, indexed: bool) -> Iterator[Condition]:
    """Yield the conditions. Those that few rows are likely to meet come first."""

    def condition(name: str, *limits: Limit) -> Condition:
        column, other = tables.files.c[name], tables.files.alias()
        sorting = limits if name == query.sort else ()
        ids = select(other.c.id).where(*(meets(other.c[name], value) for meets, value in limits))
        return Condition(
            test=and_(*(meets(no_index(column), value) for meets, value in limits)),
            ids=ids,
            quick=ids,
            low=tuple(_LOW[meets](column, value) for meets, value in sorting if meets in _LOW),
            high=tuple(_HIGH[meets](column, value) for meets, value in sorting if meets in _HIGH),
        )

    if query.sha256 is not None:
        yield condition("sha256", (operator.eq, query.sha256))
    if query.filename is not None:
        yield condition("original_filename", (operator.eq, query.filename))
    yield from _tags(tables, query)
    yield from _words(tables, query, indexed=indexed)
    if query.uploaded_by is not None:
        yield condition("uploaded_by", (operator.eq, query.uploaded_by))
    if query.content_type is not None:
        yield condition("content_type", (operator.eq, query.content_type))
    sizes: list[Limit] = []
    if query.min_size is not None:
        sizes.append((operator.ge, max(query.min_size, 0)))
    if query.max_size is not None:
        sizes.append((operator.le, min(query.max_size, LARGEST)))
    if sizes:
        yield condition("size", *sizes)
    for name, after, before in (
        ("uploaded_at", query.uploaded_after, query.uploaded_before),
        ("updated_at", query.updated_after, query.updated_before),
    ):
        times: list[Limit] = []
        if after is not None:
            times.append((operator.gt, after))
        if before is not None:
            times.append((operator.lt, before))
        if times:
            yield condition(name, *times)


def _tags(tables: Tables, query: Query) -> Iterator[Condition]:
    wanted_tags = sorted(set(query.tags))
    tags = tables.tags.c
    if wanted_tags:
        held = select(func.count()).where(tags.file == tables.files.c.id, tags.tag.in_(wanted_tags))
        yield Condition(test=held.correlate(tables.files).scalar_subquery() == len(wanted_tags))
    for tag in wanted_tags[:_PROBED_TAGS]:
        ids = select(tags.file).where(tags.tag == tag)
        yield Condition(ids=ids, quick=ids)


def _words(tables: Tables, query: Query, *, indexed: bool) -> Iterator[Condition]:
    words = words_to_find(query.words)
    for start in range(0, len(words), _TOGETHER):
        places = [func.instr(tables.files.c.words, word) for word in words[start : start + _TOGETHER]]
        # min() of one argument would be the aggregate.
        place = func.min(*places) if len(places) > 1 else places[0]
        yield Condition(test=place > 0)
    long = [word for word in words[:_TRIGRAMS] if len(word) >= LONGEST]
    if indexed and long:
        # Entries with one part of each word are found quickly, and are seldom many more than those with all parts.
        some = _by_trigrams(tables, long, 1) if len(long) > 1 else None
        yield Condition(ids=_by_trigrams(tables, long, _TRIGRAMS), quick=some)
    short = [word for word in words if len(word) < LONGEST and not _UNSAFE & set(word)]
    for word in short[:_PROBED_WORDS] if indexed else ():
        ids = _by_beginning(tables, word)
        yield Condition(ids=ids, quick=ids)


def _by_trigrams(tables: Tables, words: list[str], most: int) -> Select[tuple[int]]:
    """Return the statement for the ids of rows with the trigrams of these words, at most `most` of each word."""
    parts = dict.fromkeys(part for word in words for part in selective_trigrams(word)[:most])
    match = " AND ".join('"' + part.replace('"', '""') + '"' for part in parts)
    index = table(f"{tables.prefix}parts", column("rowid", Integer))
    return select(index.c.rowid).where(literal_column(f"{tables.prefix}parts").op("MATCH")(match))


def _by_beginning(tables: Tables, word: str) -> Select[tuple[int]]:
    """Return the statement for the ids of rows with a word of one or two letters: its trigrams begin with it."""
    index = table(f"{tables.prefix}trigrams", column("term", Text), column("doc", Integer))
    within = index.c.term >= word, index.c.term <= word + "\U0010ffff" * 2
    return select(index.c.doc).where(*within).distinct()


def no_index(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)
