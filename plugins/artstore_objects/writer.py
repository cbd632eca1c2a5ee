"""An upload to an object store: the data first, then the sidecar, each under a name that was free."""

from __future__ import annotations

from collections.abc import Callable

from artstore.errors import ArtstoreError, Conflict, OutcomeUnknown, StorageFull, TooLarge, Unavailable
from artstore.ids import Key
from artstore.spi import Writer
from artstore_objects.layout import READ_LIMIT, decode_marker, sidecar_name
from artstore_objects.store import ObjectStore


class ObjectWriter(Writer):
    """New data for one key. `writer_id` is unique to this upload. `on_end` is called once, at its end."""

    def __init__(self, store: ObjectStore, key: Key, writer_id: str, on_end: Callable[[], None]) -> None:
        self._store = store
        self._key = key
        self._writer_id = writer_id
        self._on_end = on_end
        self._ended = False
        self._upload = store.upload(key, writer_id)

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
            except (StorageFull, TooLarge, Unavailable) as e:
                self._remove_data(e)
                raise
        finally:
            self.abort()

    def _commit(self, sidecar: bytes) -> None:
        """Put the sidecar: the commit point.

        If the name is taken, it is read. The sidecar there may be ours: an earlier try put it and its reply was lost;
        others may have changed or deleted it since.
        """
        name = sidecar_name(self._key)
        if self._store.put(name, sidecar, writer_id=self._writer_id, if_absent=True):
            return
        present = self._store.get(name, READ_LIMIT)
        if present is not None and present.writer_id == self._writer_id:
            return
        if present is None or decode_marker(present.content) is not None:
            raise Unavailable("Recovery aborted this upload before it was complete; try again.")
        raise Conflict(f"The key {self._key} is taken.")

    def _remove_data(self, reason: StorageFull | TooLarge | Unavailable) -> None:
        """Remove the data after the store refused the sidecar: no reader saw the data."""
        try:
            self._store.delete(self._key)
        except ArtstoreError:
            raise OutcomeUnknown(reason.detail) from reason

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._upload.abort()
            self._on_end()
