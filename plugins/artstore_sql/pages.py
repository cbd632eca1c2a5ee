"""From a `Query` to a `Page`, as far as it is the same for both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Select, tuple_

from artstore.attr import Attr
from artstore.errors import InvalidField
from artstore.spi import Cursor, Page, Query
from artstore_sql.tables import LARGEST, is_text, sort_value


def possible(query: Query) -> bool:
    """Return whether an entry can match: no entry holds text that UTF-8 cannot encode, or a negative size."""
    texts = (*query.words, *query.tags, query.filename, query.uploaded_by, query.content_type, query.sha256)
    times = (query.uploaded_after, query.uploaded_before, query.updated_after, query.updated_before)
    if not all(is_text(one) for one in (*texts, *times) if one is not None):
        return False
    return (query.min_size or 0) < LARGEST and (query.max_size is None or query.max_size >= 0)


def page_of(texts: list[str], query: Query, read: Callable[[str], Attr]) -> Page:
    """Return the page of these attrs in JSON. One more than `query.limit` means that there is a next page."""
    items = [read(text) for text in texts[: query.limit]]
    if len(texts) <= query.limit or not items:
        return Page(items=items, next=None)
    return Page(items=items, next=Cursor(sort_value(items[-1], query.sort), items[-1].file_id))


def position(query: Query, at: Cursor) -> Any:
    """Return the position of a cursor as SQL. Raises `InvalidField` when it does not belong to the order of `query`."""
    value, file_id = at
    if query.sort == "size":
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    else:
        fits = isinstance(value, str) and is_text(value)
    if not (fits and is_text(file_id)):
        raise InvalidField("cursor", "The position does not belong to this order.")
    return tuple_(value, file_id)


def ordered(rows: Select[Any], order: list[ColumnElement[Any]], query: Query) -> Select[Any]:
    """Return the statement with its rows in the order of `query`."""
    return rows.order_by(*(column.desc() if query.descending else column.asc() for column in order))
