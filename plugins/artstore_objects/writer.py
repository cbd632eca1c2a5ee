"""An upload on its way to an object store: data first, then the sidecar, both where nothing was."""

from __future__ import annotations

from collections.abc import Callable

from artstore.errors import ArtstoreError, Conflict, OutcomeUnknown, StorageFull, Unavailable
from artstore.ids import Key
from artstore_objects.layout import decode_marker, register
from artstore_objects.store import Objects


class ObjectWriter:
    """New data for one key. `mark` tells this upload from every other; `over` hears when it has ended."""

    def __init__(self, objects: Objects, key: Key, mark: str, over: Callable[[], None]) -> None:
        self._objects = objects
        self._key = key
        self._mark = mark
        self._done = over
        self._over = False
        self._upload = objects.upload(key, mark)

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        self._upload.write(piece)

    def publish(self, sidecar: bytes) -> None:
        try:
            if not self._upload.finish():
                raise Conflict(f"The key {self._key} is taken.")
            try:
                self._commit(sidecar)
            except OutcomeUnknown:
                raise
            except (Unavailable, StorageFull) as e:
                self._withdraw(e)
                raise
        finally:
            self.abort()

    def _commit(self, sidecar: bytes) -> None:
        """The commit point. A refusal is read: the sidecar there may be this very one, put and then answered
        to nobody, and perhaps changed or deleted by others since."""
        name = register(self._key)
        if self._objects.put(name, sidecar, mark=self._mark, absent=True):
            return
        there = self._objects.get(name, MORE_THAN_A_SIDECAR)
        if there is not None and there.mark == self._mark:
            return
        if there is None or decode_marker(there.content) is not None:
            raise Unavailable("This upload was given up by recovery before it was complete; try again.")
        raise Conflict(f"The key {self._key} is taken.")

    def _withdraw(self, reason: Unavailable | StorageFull) -> None:
        """The store refused the sidecar: nobody saw the data."""
        try:
            self._objects.delete(self._key)
        except ArtstoreError:
            raise OutcomeUnknown(reason.detail) from reason

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._upload.abort()
            self._done()


MORE_THAN_A_SIDECAR = 8192
