"""The background thread: it retries failed index writes, recovers crashed processes, and advances the checkpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from artstore import checkpoint, recovery
from artstore.errors import ArtstoreError, Unavailable
from artstore.ids import FileId, Key, now
from artstore.index import Index
from artstore.observers import Observers
from artstore.parts import Parts
from artstore.spi import Position

log = logging.getLogger("artstore.background")

INTERVAL = 5.0
"""Seconds between two rounds."""
RETRY_MIN = 0.1
"""Seconds until work that searches wait for is first tried again; then twice as long each time, up to `INTERVAL`."""
FLUSH_INTERVAL = 5.0
"""Seconds between two flushes while something changes. What changed since the last one is delivered to the observers
again after a crash, and a cache that is set back by less is not recognised as such."""
SHARED_FLUSH_INTERVAL = 15.0
"""The same in a store of many nodes, where each process pays for a flush with requests."""
IDLE_FLUSH_INTERVAL = 60.0
"""Seconds between two flushes while nothing changes: old parts of the log are removed."""


class Background:
    """What is done after the answers went out. The methods may also be called by hand, from any thread."""

    def __init__(self, parts: Parts, index: Index, observers: Observers) -> None:
        self._parts = parts
        self._index = index
        self._observers = observers
        self._backlog = index.backlog
        self._delay = RETRY_MIN
        self._closing = False
        self._thread: threading.Thread | None = None
        self._undelivered: list[tuple[Position, Sequence[int]]] = []
        """Positions in the log and in the queues of the observers: the oldest and the newest up to which the cache is
        durable, and the log is not checkpointed yet."""
        self._checkpointing = threading.Lock()

    def start(self) -> None:
        """Start the thread."""
        self._delay = RETRY_MIN
        self._thread = threading.Thread(target=self._run, name="artstore.background", daemon=True)
        self._thread.start()

    def resolve_in_doubt(self) -> None:
        """Resolve the uploads of this process that are in doubt. Raises `Unavailable`."""
        self._parts.element.record()  # another store in its place would tell nothing of these files
        self._backlog.resolve_in_doubt()

    def drain(self) -> None:
        """Write the index entries of the backlog. Raises `Unavailable`; what is left is tried again."""
        self._parts.element.record()
        self._backlog.drain(self._write_entry)

    def recover(self) -> recovery.Report:
        """Recover what dead processes left, and rebuild a cache that was replaced. Raises `StorageFull`,
        `Unavailable`."""
        self._parts.element.record()
        return recovery.recover_dead(self._parts, self._index, self._observers)

    def flush(self, *, wait: bool = True) -> None:
        """Make the cache durable; then purge tombstones, and advance the checkpoint and the log.

        With `wait` an observer that is behind gets a few seconds, so that the log advances now and not at the next
        flush. Raises `StorageFull`, `Unavailable`; what is left waits for the next flush.
        """
        started = now()
        # Before the backlog is read: every change that ended before this position is flushed then.
        position = self._parts.log.position()
        # After that: every event of these changes is queued before this one.
        events = self._observers.position()
        with self._backlog.flushing() as todo:
            if todo.changed or todo.to_purge:
                checkpoint.flush(self._parts, started, move=todo.caught_up)
            todo.changed = False
            while todo.to_purge:
                self._parts.backend.purge(todo.to_purge[-1])
                todo.to_purge.pop()
        with self._checkpointing:
            self._checkpoint_log()
            # While entries are still to be written, or events to be delivered, the log is their trace.
            if todo.caught_up:
                # An observer that is always behind by a little reaches the oldest position at some time.
                self._undelivered[1:] = [(position, events)]
            if wait:
                self._observers.is_delivered()
            self._checkpoint_log()

    def _checkpoint_log(self) -> None:
        while self._undelivered and self._observers.has_flushed(self._undelivered[0][1]):
            self._parts.log.checkpoint(self._undelivered[0][0])
            del self._undelivered[0]

    def close(self) -> None:
        """Stop the thread, and make everything durable that can be."""
        self._closing = True
        self._backlog.wakeup.set()
        if self._thread is not None:
            self._thread.join()
        for step in (self.resolve_in_doubt, self.drain, self.flush):
            _run_logged(step)
        self._backlog.close()

    def _write_entry(self, file_id: FileId, key: Key) -> None:
        try:
            self._index.repair_entry(file_id, key)
        except Unavailable:
            raise
        except ArtstoreError as e:
            log.error("%s can have no index entry: %s", key, e.detail)
        # An update or a deletion whose outcome was in doubt may have happened without an event.
        self._observers.redeliver_current(self._parts.backend, self._parts.locks, file_id, key)

    def _run(self) -> None:
        flushed = time.monotonic()
        while self._wait():
            _run_logged(self.resolve_in_doubt)
            _run_logged(self.drain)
            _run_logged(self.recover)
            if time.monotonic() - flushed >= self._flush_interval():
                flushed = time.monotonic()
                _run_logged(lambda: self.flush(wait=False))
            self._delay = min(2 * self._delay, INTERVAL) if self._backlog.is_urgent() else RETRY_MIN

    def _flush_interval(self) -> float:
        if not self._backlog.has_changes() and not self._undelivered:
            return IDLE_FLUSH_INTERVAL
        return SHARED_FLUSH_INTERVAL if self._parts.backend.capabilities.shared else FLUSH_INTERVAL

    def _wait(self) -> bool:
        """Wait for the next round, which comes earlier when something urgent is added. Return False at the end."""
        wakeup = self._backlog.wakeup
        wakeup.clear()  # before the backlog is read: what is added after that sets it again
        due = time.monotonic() + (self._delay if self._backlog.is_urgent() else INTERVAL)
        while not self._closing and (left := due - time.monotonic()) > 0:
            if wakeup.wait(left):
                wakeup.clear()
                due = min(due, time.monotonic() + self._delay)
        return not self._closing


def _run_logged(step: Callable[[], object]) -> None:
    """Run `step`. An error becomes a line in the log: the next round tries again."""
    try:
        step()
    except ArtstoreError as e:
        log.warning("%s It is tried again.", e.detail)
    except Exception:
        log.exception("the background thread failed; it tries again")
