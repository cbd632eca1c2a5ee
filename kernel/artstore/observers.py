"""Observers: each has a queue of its own, behind the answers, and receives every change at least once.

A change is queued before its intent ends, and the log is checkpointed only when all observers have received what was
queued before. So after a crash the log names the changes that they may have missed, and these are delivered again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from artstore.attr import Attr, decode
from artstore.errors import ArtstoreError, Damaged, NotFound, ProviderFault
from artstore.ids import FileId, Key
from artstore.locks import LOCK_TIMEOUT, Locks
from artstore.spi import Change, Observer, RecoverableBackend

log = logging.getLogger("artstore.observers")

QUEUE_LIMIT = 10_000
"""Events that wait in the queue of one observer."""
FLUSH_EVERY = 256
"""Events after which an observer is flushed, also when more are waiting."""
DELIVERY_TIMEOUT = 5.0
"""Seconds to wait for an observer that is behind."""
RETRY = 1.0
"""Seconds until an event or a flush that failed is tried again."""


class Event(NamedTuple):
    """A committed change: the arguments of `Observer.committed`."""

    change: Change
    file_id: FileId
    key: Key
    attr: Attr | None


class Queue:
    """The events that one observer has still to receive, in order, and the thread that delivers them."""

    def __init__(self, name: str, observer: Observer) -> None:
        """Start the thread."""
        self._name = name
        self._observer = observer
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._put = self._delivered = self._flushed = 0
        self._overflowed = self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"artstore.observers {name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Append an event. Never waits. When the queue is full the event is delivered at the next start, by the log."""
        with self._changed:
            if len(self._events) >= QUEUE_LIMIT:
                if not self._overflowed:
                    log.error(
                        "observer %s is too slow: from now on it receives events at the next start",
                        self._name,
                    )
                self._overflowed = True
                return
            self._events.append(event)
            self._put += 1
            self._changed.notify_all()

    def is_delivered(self) -> bool:
        """Return whether the observer has, durably, all that was put before this call. Waits for it a few seconds."""
        with self._changed:
            upto = self._put
            self._changed.wait_for(lambda: self._flushed >= upto or self._closing, DELIVERY_TIMEOUT)
            return self._flushed >= upto and not self._overflowed

    def position(self) -> int:
        """Return the number of events that were put."""
        return self._put

    def has_flushed(self, position: int) -> bool:
        """Return whether the observer has, durably, what was put before `position` was taken."""
        return self._flushed >= position and not self._overflowed

    def close(self) -> None:
        """Deliver what is left, unless that fails; then close the observer."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(DELIVERY_TIMEOUT)
        try:
            self._observer.close()
        except Exception:
            log.exception("observer %s failed to close", self._name)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._events or self._closing or self._flushed < self._delivered
                )
                unflushed = self._delivered - self._flushed
                if not self._events and not unflushed:
                    return
            done = self._deliver() if self._events and unflushed < FLUSH_EVERY else self._flush()
            with self._changed:
                if not done and self._changed.wait_for(lambda: self._closing, RETRY):
                    return
                self._changed.notify_all()

    def _deliver(self) -> bool:
        event = self._events[0]
        try:
            self._observer.committed(*event)
        except ProviderFault:
            log.error("observer %s missed the %s of %s: it failed", self._name, event.change, event.file_id)
        except ArtstoreError as e:
            log.warning("observer %s: %s It is tried again.", self._name, e.detail)
            return False
        except Exception:
            log.exception("observer %s missed the %s of %s", self._name, event.change, event.file_id)
        with self._changed:
            self._events.popleft()
            self._delivered += 1
        return True

    def _flush(self) -> bool:
        try:
            self._observer.flush()
        except ArtstoreError as e:
            log.warning("observer %s: %s", self._name, e.detail)
            return False
        except Exception:
            log.exception("observer %s failed to flush", self._name)
            return False
        self._flushed = self._delivered
        return True


class Observers:
    """All observers of one element in one process. Every method may be called from many threads at once."""

    def __init__(self, queues: Sequence[Queue] = ()) -> None:
        self._queues = queues

    def __bool__(self) -> bool:
        return bool(self._queues)

    def deliver(self, event: Event) -> None:
        """Queue an event for every observer. Never waits and never raises. Called before the intent ends: until then
        the log is the trace of the change."""
        for queue in self._queues:
            queue.put(event)

    def redeliver_current(self, backend: RecoverableBackend, locks: Locks, file_id: FileId, key: Key) -> None:
        """Queue the present state of a file as its last change, when it is in doubt whether observers received that.

        Raises `Unavailable`.
        """
        if not self._queues:
            return
        # Under the lock of the file: else a change that is made meanwhile could be queued before the older state.
        with locks.file(file_id, timeout=LOCK_TIMEOUT):
            try:
                self.deliver(event_of(decode(backend.read_sidecar(key), key)))
            except NotFound:
                self.deliver(Event("delete", file_id, key, None))
            except Damaged as e:
                log.error("%s", e.detail)

    def is_delivered(self) -> bool:
        """Return whether all observers have, durably, what was queued before this call. Waits a few seconds for each
        that is behind."""
        return all(queue.is_delivered() for queue in self._queues)

    def position(self) -> Sequence[int]:
        """Return how many events were queued for each observer."""
        return [queue.position() for queue in self._queues]

    def has_flushed(self, position: Sequence[int]) -> bool:
        """Return whether all observers have, durably, what was queued before `position` was taken. Never waits."""
        return all(queue.has_flushed(upto) for queue, upto in zip(self._queues, position, strict=True))

    def close(self) -> None:
        """Deliver what is left, as far as that succeeds, and close all observers."""
        for queue in self._queues:
            queue.close()


def event_of(attr: Attr, *, deleted: bool = False) -> Event:
    """Return the change that led to `attr`, or its deletion."""
    change: Change = "delete" if deleted else "upload" if attr.revision == 1 else "update"
    return Event(change, attr.file_id, attr.key, attr)
