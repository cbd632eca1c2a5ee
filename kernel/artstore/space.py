"""The space that uploads need: free bytes of the volume, and the capacity that the operator set.

An upload reserves its room within the capacity before its bytes arrive, and releases it once its file is in the index.
So the uploads of all processes of a node together never exceed the capacity. Nodes that share a store do not see each
other's reserved bytes: there the check before each commit holds what is stored to the capacity, but for files that are
committed on several nodes at the same moment.
"""

from __future__ import annotations

import logging
import time

from artstore.errors import StorageFull, Unavailable
from artstore.index import Index
from artstore.ledger import Ledger
from artstore.locks import LOCK_TIMEOUT
from artstore.parts import Parts

log = logging.getLogger("artstore.space")

STEP_MIN, STEP_MAX = 1 << 20, 64 << 20
"""Bytes that are reserved at a time for an upload of unknown length: as many as it has already, within these bounds."""
REFUSAL_COUNTS = 30.0
"""Seconds for which a store that refused data for lack of space counts as full, unless it stores other data before."""
RETRY_AFTER = 5
"""Seconds after which an upload may find the room that uploads in progress had reserved."""


class Space:
    """What one process knows of the space of its element. Used by many threads."""

    def __init__(self, parts: Parts, index: Index, ledger: Ledger) -> None:
        self._parts = parts
        self._index = index
        self._ledger = ledger
        self._refusal: tuple[float, StorageFull] | None = None
        """When, and with which error, the store last refused data for lack of space."""

    def require_some(self) -> None:
        """Raise `StorageFull` when every upload is refused for lack of space, as far as this process knows."""
        self.check(1)
        if (refusal := self._refusal) and time.monotonic() - refusal[0] < REFUSAL_COUNTS:
            raise StorageFull(refusal[1].detail)

    def check(self, size: int) -> None:
        """Raise `StorageFull` unless `size` more bytes have room beside the files that are stored.

        Uploads in progress do not count: a lack of space that they cause passes by itself.
        """
        self.check_volume(size)
        self.check_capacity(size)

    def check_volume(self, size: int) -> None:
        """Raise `StorageFull` unless the volume has room for `size` more bytes."""
        free = self._parts.backend.free_bytes()
        if free is not None and free - size < self._parts.limits.min_free:
            raise StorageFull("The volume of this element has no room for the file.")

    def check_capacity(self, size: int) -> None:
        """Raise `StorageFull` when the files that are stored leave no room for `size` bytes, if the index knows."""
        capacity = self._parts.limits.capacity
        if capacity is None:
            return
        try:
            used = self._index.totals().size
        except Unavailable:
            return
        if used + size > capacity:
            raise StorageFull("The capacity of this element is used up.")

    def note_refusal(self, error: StorageFull) -> None:
        """Remember that the store refused data for lack of space: a quota shows in no number of free bytes."""
        self._refusal = time.monotonic(), error

    def note_success(self) -> None:
        """Remember that the store took a file."""
        self._refusal = None

    # --- what uploads reserve -----------------------------------------------------------------------------

    def reserve(self, least: int, wish: int, *, held: int) -> int:
        """Reserve `wish` bytes within the capacity, or `least` when there is no room for more; return how many.

        `held`: what the same upload has reserved already. Raises `StorageFull`, `Unavailable`.
        """
        capacity = self._parts.limits.capacity
        assert capacity is not None
        with self._parts.locks.exclusive("space", timeout=LOCK_TIMEOUT):
            # In this order: a file is in the index before its upload releases the room. It may be counted twice for
            # a moment, but it is never missed.
            reserved = self._ledger.reserved()
            try:
                used = self._ledger.used(self._index.totals().size)
            except Unavailable:  # an incomplete index must not keep users from uploading, nor lift the limit
                used = self._ledger.used()
            if used + held + least > capacity:
                raise StorageFull("The capacity of this element is used up.")
            if used + reserved + least > capacity:
                raise StorageFull(
                    "Uploads in progress have reserved the rest of the capacity; try again.",
                    retry_after=RETRY_AFTER,
                )
            granted = wish if used + reserved + wish <= capacity else least
            self._ledger.reserve(granted)
            return granted

    def release(self, reserved: int, stored: int) -> None:
        """Release `reserved` bytes, of which `stored` are in a file now. Never raises."""
        try:
            if stored:
                with self._parts.locks.exclusive("space", timeout=LOCK_TIMEOUT):
                    self._ledger.used(stored=stored)
        except (StorageFull, Unavailable) as e:  # the next count of all files corrects it
            log.warning("%s", e.detail)
        try:
            self._ledger.reserve(-reserved)
        except (StorageFull, Unavailable) as e:  # written with the next change
            log.warning("%s", e.detail)

    def reserved(self) -> int:
        """Return the bytes that uploads in progress have reserved on this node: 0 without a capacity. Raises
        `StorageFull`, `Unavailable`."""
        if self._parts.limits.capacity is None:
            return 0
        with self._parts.locks.exclusive("space", timeout=LOCK_TIMEOUT):
            return self._ledger.reserved()

    def close(self) -> None:
        """Give up what this process has reserved."""
        self._ledger.close()


class Room:
    """The bytes that one upload has reserved within the capacity. Without a capacity it does nothing. Used by one
    thread at a time."""

    def __init__(self, space: Space, *, limited: bool) -> None:
        self._space = space
        self._limited = limited
        self._reserved = 0

    def extend(self, size: int, *, final: bool = False) -> None:
        """Reserve more, unless the upload has room for `size` bytes in all. `final`: it will have no more than these.

        Raises `StorageFull`, `Unavailable`.
        """
        if self._limited and size > self._reserved:
            least = size - self._reserved
            step = least if final else max(least, STEP_MIN, min(self._reserved, STEP_MAX))
            self._reserved += self._space.reserve(least, step, held=self._reserved)

    def release(self, *, stored: int = 0) -> None:
        """Release all, once; `stored`: the bytes of its file, unless it left none. Never raises."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._space.release(reserved, stored)
