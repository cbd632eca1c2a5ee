"""An end to statements that would run for too long."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

_STEPS = 10_000
"""Of SQLite's machine, between two looks at the clock: a millisecond or so."""


@contextmanager
def interrupt_after(connection: Connection, deadline: float) -> Iterator[None]:
    """Within it SQLite gives up once `deadline` (`time.monotonic`) has passed: `SQLITE_INTERRUPT`."""
    dbapi = connection.connection.driver_connection
    if not isinstance(dbapi, sqlite3.Connection):  # pragma: no cover - the engine is ours
        raise TypeError(type(dbapi))
    dbapi.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    finally:
        dbapi.set_progress_handler(None, 0)
