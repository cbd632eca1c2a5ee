"""The tables in PostgreSQL, as far as statements speak of them; `revisions` makes them."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Boolean, Column, DateTime, Integer, MetaData, Table, Text


class Tables:
    """What one element keeps; several elements may share a database under different prefixes."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
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
        self.wal = Table(
            f"{prefix}wal",
            metadata,
            Column("tx", Text, primary_key=True),
            Column("owner", BigInteger),
            Column("op", Text),
            Column("file_id", Text),
            Column("key", Text),
            Column("by", Text),
            Column("revision", BigInteger),
            Column("status", Text),
            Column("started", Text),
            Column("finished", Text),
            Column("ended", BigInteger),
            Column("error", Text),
        )
        self.owners = Table(
            f"{prefix}wal_owners",
            metadata,
            Column("id", BigInteger, primary_key=True),
            Column("process", Text),
            Column("lease", DateTime(timezone=True)),
            Column("fenced", Boolean),
            Column("flushed", BigInteger),
            Column("owes", BigInteger),
        )
