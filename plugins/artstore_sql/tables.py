"""The tables of a cache, and the row of an `Attr`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text

from artstore.attr import Attr
from artstore.spi import Sort
from artstore_sql.text import searchable

SCHEMA = 1
LARGEST = 2**53
"""Sizes and revisions of an attr stay below this, so that no database's sum of sizes overflows."""

_Id = BigInteger().with_variant(Integer, "sqlite")


class Tables:
    """The tables of one cache. Several caches may share a database under different prefixes."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = MetaData()
        self.files = Table(
            f"{prefix}files",
            self.metadata,
            Column("id", _Id, primary_key=True),
            Column("file_id", Text, nullable=False, unique=True),
            Column("storage_path", Text, nullable=False),
            Column("storage_filename", Text, nullable=False),
            Column("original_filename", Text, nullable=False),
            Column("uploaded_by", Text, nullable=False),
            Column("content_type", Text, nullable=False),
            Column("size", BigInteger, nullable=False),
            Column("sha256", Text, nullable=False),
            Column("uploaded_at", Text, nullable=False),
            Column("updated_at", Text, nullable=False),
            Column("revision", BigInteger, nullable=False),
            Column("words", Text, nullable=False),
            Column("attr", Text, nullable=False),
        )
        for column in ("uploaded_at", "updated_at", "original_filename", "size"):
            Index(f"{prefix}files_{column}", self.files.c[column], self.files.c.file_id)
        Index(f"{prefix}files_names", self.files.c.id, self.files.c.original_filename)
        for column in ("uploaded_by", "content_type", "sha256", "storage_path"):
            Index(f"{prefix}files_{column}", self.files.c[column])
        self.tags = Table(
            f"{prefix}tags",
            self.metadata,
            Column("tag", Text, primary_key=True),
            Column("file", _Id, primary_key=True),
            sqlite_with_rowid=False,
        )
        self.totals = Table(
            f"{prefix}totals",
            self.metadata,
            Column("files", BigInteger, nullable=False),
            Column("size", BigInteger, nullable=False),
        )
        self.meta = Table(
            f"{prefix}meta",
            self.metadata,
            Column("name", Text, primary_key=True),
            Column("value", Text, nullable=False),
        )


@cache
def tables_of(prefix: str) -> Tables:
    """Return the tables of one prefix, the same ones each time: to make them takes longer than to open a cache."""
    return Tables(prefix)


def row(attr: Attr) -> dict[str, Any]:
    """Return the row of `attr`: all of it as JSON, and the columns that searches filter and sort by."""
    return {
        "file_id": attr.file_id,
        "storage_path": attr.storage_path,
        "storage_filename": attr.storage_filename,
        "original_filename": attr.original_filename,
        "uploaded_by": attr.uploaded_by,
        "content_type": attr.content_type,
        "size": attr.size,
        "sha256": attr.sha256,
        "uploaded_at": attr.uploaded_at,
        "updated_at": attr.updated_at,
        "revision": attr.revision,
        "words": searchable(attr),
        "attr": attr.model_dump_json(),
    }


def consistent_attr(found: Mapping[Any, Any]) -> Attr | None:
    """Return the attr of a whole row; None when another column of the row contradicts it."""
    try:
        attr = Attr.model_validate_json(found["attr"])
        right = row(attr)
    except ValidationError:
        return None
    return attr if all(found[name] == right[name] for name in right if name != "attr") else None


def is_text(value: str) -> bool:
    """Return whether UTF-8 can encode the text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def sort_value(attr: Attr, sort: Sort) -> str | int:
    """Return the value by which `attr` is sorted."""
    value: str | int = getattr(attr, sort)
    return value
