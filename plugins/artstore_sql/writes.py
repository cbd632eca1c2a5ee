"""Counts of the writes of this process, by which it notices that the database was set back while it ran.

A database that is set back by seconds (a dump that is restored, a failover to a standby that lags) has the generation
that the kernel expects, and lacks the last rows. So each process counts its writes in rows of its own in `meta`, within
the transactions that it counts, and remembers the counts that were committed. A lower count than that shows that
committed rows are gone: the cache has no generation any more, and the kernel rebuilds it.

`born` in `meta` is a random text, new whenever the tables are made or cleared. A cache of another birth is another
cache: its counts are believed, and its generation says whether it may be used.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

BORN = "born"
"""The name of the row that holds the birth of the cache."""


class Count(NamedTuple):
    """A count as a transaction wrote it, with the birth of the cache that it saw."""

    name: str
    born: str | None
    value: int


class Counts(NamedTuple):
    """What was committed: the birth of the cache, and the counts by the name of their row."""

    born: str | None
    least: Mapping[str, int]


class Writes:
    """The counts of one process. Threads that write at once use different rows, so they do not wait for each other."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._free: list[str] = []
        self._names = 0
        self._born: str | None = None
        self._least: dict[str, int] = {}
        self._set_back = False

    @contextmanager
    def name(self) -> Iterator[str]:
        """Yield the name of a row that no other thread uses within the block."""
        with self._lock:
            if not self._free:
                self._free.append(f"writes {self._process} {self._names}")
                self._names += 1
            name = self._free.pop()
        try:
            yield name
        finally:
            with self._lock:
                self._free.append(name)

    def confirm(self, count: Count) -> None:
        """Remember a count that was committed."""
        with self._lock:
            if count.born != self._born:
                self._believe(count.born, {})
            elif count.value <= self._least.get(count.name, 0):
                self._set_back = True
            self._least[count.name] = max(count.value, self._least.get(count.name, 0))

    def committed(self) -> Counts:
        """Return what was committed by now, to be compared with rows that are read after this call."""
        with self._lock:
            return Counts(self._born, dict(self._least))

    def is_set_back(self, before: Counts, rows: Mapping[str, str]) -> bool:
        """Return whether `rows` of `meta` lack writes that were committed `before` they were read."""
        born = rows.get(BORN)
        found = {name: int(rows.get(name, 0)) for name in before.least}
        with self._lock:
            if born != before.born:
                if self._born == before.born:
                    self._believe(born, found)
                return False
            if self._born == born and any(found[name] < least for name, least in before.least.items()):
                self._set_back = True
            return self._set_back

    def _believe(self, born: str | None, counts: Mapping[str, int]) -> None:
        self._born, self._least, self._set_back = born, dict(counts), False
