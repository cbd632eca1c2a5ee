"""The role `observer`: every committed change is delivered to it, at least once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Protocol, runtime_checkable

from artstore.attr import Attr
from artstore.ids import FileId, Key
from artstore.spi.provider import Configurable

Change = Literal["upload", "update", "delete"]


@runtime_checkable
class Observer(Configurable, Protocol):
    """Receives every committed change, at least once. Called by one thread, in the order of this process's changes.

    Several processes may observe one element: for one file, the order is that of its revisions.
    """

    @abstractmethod
    def committed(self, change: Change, file_id: FileId, key: Key, attr: Attr | None) -> None:
        """Take note of a change, and act on it later. `attr`: the file as it is now, or as it was before `delete`.

        Not durable before `flush`. After a crash changes are delivered again: perhaps only the last change of each
        file, and a deletion then has no `attr`. Raises `StorageFull`, `Unavailable`: the change is delivered again
        soon. Any other exception is a bug, and the observer misses the change.
        """

    @abstractmethod
    def flush(self) -> None:
        """Make what was noted durable: it is not delivered again. Raises `StorageFull`, `Unavailable`."""

    def close(self) -> None:
        """Release everything. A second call has no effect."""
        return
