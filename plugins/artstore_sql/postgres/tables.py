"""The tables of the cache in PostgreSQL; `revisions` makes them."""

from __future__ import annotations

from functools import cache

from sqlalchemy import ARRAY, BigInteger, Column, Integer, MetaData, Table, Text


class Tables:
    """What one element keeps; several elements may share a database under different prefixes."""

    def __init__(self, prefix: str) -> None:
        metadata = MetaData()
        self.files = Table(
            f"{prefix}file_metadata",
            metadata,
            Column("id", BigInteger, primary_key=True),
            Column("file_id", Text),
            Column("storage_path", Text),
            Column("storage_filename", Text),
            Column("original_filename", Text),
            Column("uploaded_by", Text),
            Column("content_type", Text),
            Column("size", BigInteger),
            Column("sha256", Text),
            Column("uploaded_at", Text),
            Column("updated_at", Text),
            Column("revision", BigInteger),
            Column("tags", ARRAY(Text)),
            Column("words", Text),
            Column("parts", ARRAY(Integer)),
            Column("attr", Text),
        )
        self.totals = Table(
            f"{prefix}totals", metadata, Column("files", BigInteger), Column("size", BigInteger)
        )
        self.meta = Table(f"{prefix}meta", metadata, Column("name", Text), Column("value", Text))


@cache
def tables_of(prefix: str) -> Tables:
    """Return the tables of one prefix, the same ones each time: to make them takes longer than to open a cache."""
    return Tables(prefix)
