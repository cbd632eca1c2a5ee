"""The index of trigrams in SQLite: FTS5, which a build of SQLite may lack."""

from __future__ import annotations

import sqlite3
from contextlib import closing

# The index has no content of its own: the text stays in `files`. detail=none: trigrams without their positions need
# a third of the space; each row that they find is compared with the words again anyway.
PARTS = """CREATE VIRTUAL TABLE {p}parts USING fts5(words, content='',
    tokenize='trigram case_sensitive 1', detail=none, columnsize=0)"""


def has_trigram() -> bool:
    """Return whether this build of SQLite can index trigrams."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(PARTS.format(p="try_"))
        except sqlite3.OperationalError:
            return False
    return True
