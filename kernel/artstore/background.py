"""The keeper: one thread that pays what changes still owe, settles dead neighbours, and moves the checkpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from artstore import recovery
from artstore.debts import Debts
from artstore.errors import ArtstoreError, StorageFull, Unavailable
from artstore.ids import FileId, Key, now
from artstore.observers import tell_again
from artstore.rows import repair_row
from artstore.spi import Intent

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.keeper")

TICK = 5.0
"""Seconds between two looks at debts and dead neighbours."""
SOON = 0.1
"""Seconds until what searches wait for is first tried again; then twice as many each time, up to a tick."""
FLUSH_EVERY = 12
"""Ticks between two flushes of the cache."""


class Keeper:
    """What is left to do after an answer went out: owed rows, data of deleted files, tombstones, flushes."""

    def __init__(self, kernel: Kernel, debts: Debts) -> None:
        self._kernel = kernel
        self._debts = debts
        self._lock = threading.Lock()
        self._woken = threading.Condition(self._lock)
        self._due = self._patience = 0.0
        self._deciding = threading.Lock()
        self._owed: dict[str, tuple[str, tuple[Intent, ...]]] = {}
        self._doubts: dict[str, tuple[str, Intent | None]] = {}
        self._rebuilds = 0
        self._graves: list[str] = []
        self._changed = False
        self._told = False
        """Whether other nodes may have heard that this process owes rows."""
        self.distrusted = False
        """Whether rows may be missing that nobody knows of."""
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look after things every few seconds, and soon after a row is owed."""
        with self._lock:
            self._patience = SOON
            self._due = time.monotonic() + (SOON if self._pressing() else TICK)
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def owe(self, file_id: FileId, key: Key, intent: Intent | None) -> bool:
        """The cache row of `file_id` does not say what the tree says. `intent` stays open until it does.

        False when other nodes could not be told.
        """
        if intent is not None:
            try:
                intent.sync()  # the checkpoint may move on without this row
            except (StorageFull, Unavailable) as e:
                log.warning("%s", e.detail)
        with self._lock:
            self._debts.mark()
            _, intents = self._owed.get(file_id, (key, ()))
            self._owed[file_id] = (key, (*intents, intent) if intent is not None else intents)
            self._hasten()
        return self._tell_nodes()

    def doubt(self, file_id: FileId, key: Key, intent: Intent | None) -> None:
        """Whether the upload of `key` took place is not known: it is settled once the store answers."""
        with self._lock:
            self._debts.mark()
            self._doubts[key] = (file_id, intent)
            self._hasten()

    def decide(self, file_id: FileId | None = None) -> None:
        """Settle the uploads of this process whose outcome is not known; of one file, or all."""
        with self._deciding:
            for key, (doubted, intent) in list(self._doubts.items()):
                if file_id not in (None, doubted):
                    continue
                if self._kernel.backend.resolve(key):
                    self.owe(doubted, key, intent)
                elif intent is not None:
                    intent.roll_back("the store did not answer in time")
                with self._lock:
                    del self._doubts[key]
                    self._unmark()

    def owed_key(self, file_id: FileId) -> str | None:
        """Where a file lies whose row is owed."""
        owed = self._owed.get(file_id)
        return owed[0] if owed else None

    def is_whole(self) -> bool:
        """Whether the cache has a row for each file, as far as the processes of this node and the log know."""
        here = self.distrusted or self._owed or self._doubts or self._rebuilds or self._debts.anybody()
        return not (here or self._elsewhere())

    def _elsewhere(self) -> bool:
        try:
            return self._kernel.coordination.any_dirty()
        except Unavailable:
            return True

    def distrust(self) -> None:
        """The cache is not whole: until `trust` a missing row proves nothing, to no process."""
        with self._lock:
            self.distrusted = True
            self._debts.mark()
            self._hasten()

    def trust(self) -> None:
        """The cache was filled."""
        with self._lock:
            self.distrusted = False
            self._unmark()

    @contextmanager
    def doubting(self) -> Iterator[None]:
        """Within it a missing row proves nothing, to no process."""
        with self._lock:
            self._rebuilds += 1
            self._debts.mark()
        try:
            if not self._tell_nodes():
                raise Unavailable("Other nodes cannot be told that the index is being repaired.")
            yield
        finally:
            with self._lock:
                self._rebuilds -= 1
                self._unmark()
            _guarded(self._all_clear)

    def changed(self) -> None:
        """Something was done since the last flush."""
        self._changed = True

    def forgive(self) -> None:
        """What dead processes owed was settled."""
        self._debts.forgive()

    def bury(self, key: Key) -> None:
        """A file was deleted: its data goes now, its tombstone once the cache has forgotten it durably."""
        try:
            self._kernel.backend.delete_data(key)
        except ArtstoreError as e:  # the tombstone stays, so recovery tries again
            log.warning("data of the deleted file %s is still there: %s", key, e.detail)
            return
        with self._lock:
            self._graves.append(key)

    def flush(self) -> None:
        """Make the cache durable; then tombstones, old segments and the checkpoint can follow."""
        kernel = self._kernel
        begun = now()
        # Before the look at what was changed: what ended before the marks is flushed then.
        marks = kernel.wal.position()
        changed, self._changed = self._changed, False
        with self._lock:
            owed = {key for key, _ in self._owed.values()}
            # Of a file whose row is owed the tombstone is the trace.
            graves = [key for key in self._graves if key not in owed]
            self._graves = [key for key in self._graves if key in owed]
        try:
            if changed or graves:
                recovery.flush(kernel, begun, move=not owed)
            changed = False
            for key in graves:
                kernel.backend.purge(key)
            graves = []
            if not owed and kernel.observers.heard():  # the log tells of what is owed
                kernel.wal.checkpoint(marks)
        finally:
            self._changed |= changed
            if graves:
                with self._lock:
                    self._graves += graves

    def pay(self) -> None:
        """Try again to write the rows that are owed."""
        with self._lock:
            owed = dict(self._owed)
        for file_id, debt in owed.items():
            key, intents = debt
            try:
                repair_row(self._kernel, key, file_id)
            except Unavailable:
                with self._lock:  # to the end of the line: next time the others are paid first
                    self._owed[file_id] = self._owed.pop(file_id)
                raise
            except ArtstoreError as e:
                log.error("%s can have no row: %s", key, e.detail)
            with self._lock:
                if self._owed.get(file_id) is not debt:  # owed once more meanwhile: paid next time
                    continue
                del self._owed[file_id]
                self._unmark()
            tell_again(self._kernel, key, file_id)  # an update or a deletion that seemed to fail, perhaps
            for intent in intents:
                intent.commit()
        self._all_clear()

    def _tell_nodes(self) -> bool:
        try:
            self._kernel.coordination.set_dirty()
        except Unavailable as e:
            log.warning("other nodes cannot be told that a row is owed: %s", e.detail)
            return False
        finally:
            self._told = True
        return True

    def _all_clear(self) -> None:
        """Tell the other nodes when nothing is owed any more."""
        told, self._told = self._told, False
        try:
            if told:
                marks = self._kernel.wal.position()  # before the look, so that what is owed later stays
                if not (self._owed or self._rebuilds):
                    self._kernel.coordination.clear_dirty(marks)
                    told = False
        finally:
            if told:
                self._told = True

    def _unmark(self) -> None:
        if not (self._pressing() or self._rebuilds):
            self._debts.unmark()

    def close(self) -> None:
        """Stop, and leave everything durable that can be."""
        with self._lock:
            self._over = True
            self._woken.notify()
        if self._thread is not None:
            self._thread.join()
        for step in (self.decide, self.pay, self.flush):
            _guarded(step)
        self._debts.close()

    def _run(self) -> None:
        flushed = time.monotonic()
        while self._wait():
            _guarded(self.decide)
            _guarded(self.pay)
            _guarded(lambda: recovery.settle(self._kernel))
            if time.monotonic() - flushed >= FLUSH_EVERY * TICK:
                flushed = time.monotonic()
                _guarded(self.flush)
            with self._lock:
                pressing = self._pressing()
                self._patience = min(2 * self._patience, TICK) if pressing else SOON
                self._due = time.monotonic() + (self._patience if pressing else TICK)

    def _pressing(self) -> bool:
        """Whether searches wait for it."""
        return bool(self._owed or self._doubts or self.distrusted)

    def _hasten(self) -> None:
        self._due = min(self._due, time.monotonic() + self._patience)
        self._woken.notify()

    def _wait(self) -> bool:
        """Until there is something to do; False when it is to stop."""
        with self._lock:
            while not self._over and (left := self._due - time.monotonic()) > 0:
                self._woken.wait(left)
            return not self._over


def _guarded(step: Callable[[], object]) -> None:
    """A fault here is a line in the log: the next tick tries again."""
    try:
        step()
    except ArtstoreError as e:
        log.warning("%s It is tried again.", e.detail)
    except Exception:
        log.exception("the keeper failed; it is tried again")
