"""Those who hear of every change and miss none: each has a line of its own, behind the answers.

A change is put in line before its intent ends, and an intent counts as flushed only once all observers have what was
put in line before. So after a crash the log tells what they may not have heard, and they are told again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from artstore.attr import Attr, decode
from artstore.errors import ArtstoreError, Damaged, NotFound, ProviderFault
from artstore.ids import FileId, Key
from artstore.spi import Change, Observer, Transaction

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.observers")

MOST = 10_000
"""Changes that wait in one line."""
FLUSH_EVERY = 256
PATIENCE = 5.0
"""Seconds to wait for an observer that is behind."""
RETRY = 1.0


class Told(NamedTuple):
    """A change, as `Observer.committed` takes it."""

    op: Change
    file_id: FileId
    key: Key
    attr: Attr | None


class Line:
    """What one observer has still to hear, in order, and the thread that tells it."""

    def __init__(self, name: str, observer: Observer) -> None:
        self._name = name
        self._observer = observer
        self._waiting: deque[Told] = deque()
        self._changed = threading.Condition()
        self._put = self._taken = self._safe = 0
        self._missed = self._over = False
        self._thread = threading.Thread(target=self._run, name=f"observer {name}", daemon=True)
        self._thread.start()

    def put(self, change: Told) -> None:
        """Never waits. What comes to a full line is told at the next start, from the log."""
        with self._changed:
            if len(self._waiting) >= MOST:
                if not self._missed:
                    log.error(
                        "observer %s is too slow: from now on it hears all at the next start", self._name
                    )
                self._missed = True
                return
            self._waiting.append(change)
            self._put += 1
            self._changed.notify_all()

    def heard(self) -> bool:
        """Whether the observer has, safely, all that was put in line before this call; waits a little."""
        with self._changed:
            upto = self._put
            self._changed.wait_for(lambda: self._safe >= upto or self._over, PATIENCE)
            return self._safe >= upto and not self._missed

    def close(self) -> None:
        """Tell what is left, unless that fails; then let the observer go."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(PATIENCE)
        try:
            self._observer.close()
        except Exception:
            log.exception("observer %s failed to close", self._name)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over or self._safe < self._taken)
                behind = self._taken - self._safe
                if not self._waiting and not behind:
                    return
            done = self._tell() if self._waiting and behind < FLUSH_EVERY else self._flush()
            with self._changed:
                if not done and self._changed.wait_for(lambda: self._over, RETRY):
                    return
                self._changed.notify_all()

    def _tell(self) -> bool:
        change = self._waiting[0]
        try:
            self._observer.committed(*change)
        except ProviderFault:
            log.error("observer %s failed to hear of %s %s", self._name, change.op, change.file_id)
        except ArtstoreError as e:
            log.warning("observer %s: %s It is told again.", self._name, e.detail)
            return False
        except Exception:
            log.exception("observer %s failed to hear of %s %s", self._name, change.op, change.file_id)
        with self._changed:
            self._waiting.popleft()
            self._taken += 1
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
        self._safe = self._taken
        return True


class Observers:
    """All observers of one element in one process."""

    def __init__(self, lines: Sequence[Line] = ()) -> None:
        self._lines = lines

    def __bool__(self) -> bool:
        return bool(self._lines)

    def tell(self, change: Told) -> None:
        """Put a change in line; never waits, never raises."""
        for line in self._lines:
            line.put(change)

    def heard(self) -> bool:
        """Whether all have, safely, what was told before this call."""
        return all(line.heard() for line in self._lines)

    def close(self) -> None:
        for line in self._lines:
            line.close()


def change_of(attr: Attr, *, gone: bool = False) -> Told:
    """The change that led to `attr`."""
    op: Change = "delete" if gone else "upload" if attr.revision == 1 else "update"
    return Told(op, attr.file_id, attr.key, attr)


def retell(kernel: Kernel, doubtful: Iterable[Transaction]) -> bool:
    """Tell again of changes that a dead process made; False when that has to wait, and its log to be kept."""
    if not kernel.observers.heard():
        return False
    for t in doubtful:
        tell_again(kernel, str(t.key), str(t.file_id))
    return kernel.observers.heard()


def tell_again(kernel: Kernel, key: Key, file_id: FileId) -> None:
    """In doubt whether observers heard: what the tree says of a file is told as its last change."""
    if kernel.observers:
        try:
            kernel.observers.tell(change_of(decode(kernel.backend.read_sidecar(key), key)))
        except NotFound:
            kernel.observers.tell(Told("delete", file_id, key, None))
        except Damaged as e:
            log.error("%s", e.detail)
