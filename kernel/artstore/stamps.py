"""Stamps: the times of commits, by which clients poll for changes.

A change gets its stamp where it is committed, and stamps of one process never decrease. So a client that polls by
time, and looks back a little further than the last time it saw, misses nothing: docs/http-api.md says how far.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from artstore.attr import Attr, timestamp
from artstore.ids import now

log = logging.getLogger("artstore.stamps")

VISIBLE_WITHIN = 30.0
"""Seconds within which a stamped change reaches the store. One that takes longer is stamped again."""
MAX_SETBACK = timedelta(minutes=5)
"""A clock that was set back by more than this is followed; by less, stamps stand still until it has caught up."""


class Stamp(NamedTuple):
    """The time of a commit, as sidecars keep it, and the monotonic clock at that moment."""

    at: str
    taken: float

    def is_late(self) -> bool:
        """Return whether the change took so long that its stamp must be renewed."""
        return time.monotonic() - self.taken > VISIBLE_WITHIN

    def put_on(self, attr: Attr) -> Attr:
        """Return `attr` with this time of its last change, which for a new file is that of its upload, too."""
        at = max(self.at, attr.updated_at) if attr.revision > 1 else self.at
        times = {"updated_at": at} if attr.revision > 1 else {"updated_at": at, "uploaded_at": at}
        return attr.model_copy(update=times)


class Clock:
    """Makes the stamps of one process. It may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = datetime.min.replace(tzinfo=UTC)

    def stamp(self) -> Stamp:
        """Return a stamp that is not older than any before it."""
        with self._lock:
            at = now()
            if self._last - at > MAX_SETBACK:
                log.warning(
                    "the clock of this machine was set back: clients that poll by time may miss changes"
                )
                self._last = at
            self._last = max(at, self._last)
            return Stamp(timestamp(self._last), time.monotonic())
