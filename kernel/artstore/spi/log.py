"""The role `wal`: the write-ahead log of intents, and what coordinates the nodes that share it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from artstore.ids import FileId, Key
from artstore.spi.provider import Configurable

Status = Literal["pending", "committed", "rolled_back", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)

Position = Any
"""How far a process has come in its log: made by `Log.position`, read by the same log alone."""


@dataclass(slots=True, kw_only=True)
class Transaction:
    """An intent and its end, as the log keeps them. `error` says why it did not commit."""

    id: str
    operation: str
    file_id: FileId | None
    key: Key | None
    by: str
    status: Status
    started: str
    finished: str | None = None
    error: str | None = None
    revision: int = 0
    """Of an update: the revision that it makes."""


class Intent(Protocol):
    """An open intent of this process. It is ended once, by one of three methods that never raise.

    When the log cannot be written, or no longer considers the process alive, the intent stays open, and recovery
    resolves it.
    """

    @abstractmethod
    def commit(self) -> None:
        """End it: the change was made, and the index has it."""

    @abstractmethod
    def roll_back(self, error: str) -> None:
        """End it: the change failed or was given up, and everything was undone."""

    @abstractmethod
    def end_in_doubt(self, error: str) -> None:
        """End it: the change may have been made or not. Its index entry is compared with the store later."""

    @abstractmethod
    def sync(self) -> None:
        """Make the opening of the intent durable. Raises `Unavailable`, also when another process took it over."""


class AbandonedLog(Protocol):
    """The part of the log that one dead process left, held by this process until `close` or `release`."""

    @property
    def certainly_dead(self) -> bool:
        """Whether the process is known to be dead. If not, it may only be late, and wake up."""

    @property
    def pending(self) -> Sequence[Transaction]:
        """The intents that were not ended."""

    @property
    def uncheckpointed(self) -> Sequence[Transaction]:
        """The intents that were ended, but whose changes are perhaps not durable in the cache."""

    @abstractmethod
    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        """Record the end of a pending intent. Never raises: an end that cannot be written is found again later."""

    @abstractmethod
    def close(self) -> None:
        """Release it for good: nothing in it matters any more, unless an end could not be written."""

    @abstractmethod
    def release(self) -> None:
        """Release it as it is. Has no effect after `close`."""


@runtime_checkable
class Log(Configurable, Protocol):
    """The write-ahead log: which changes were started, and how they ended. It does not depend on the cache.

    Nodes that share a store need a log that they share as well: such a log is a `Coordination` too. Every method may be
    called from many threads at once.
    """

    @abstractmethod
    def begin(
        self,
        operation: str,
        *,
        by: str,
        file_id: FileId | None = None,
        key: Key | None = None,
        revision: int = 0,
    ) -> Intent:
        """Open an intent; durable after `Intent.sync`. After `StorageFull` or `Unavailable` nothing may be done."""

    @abstractmethod
    def position(self) -> Position:
        """Return how far this process has come. Taken before the cache is flushed, given to `checkpoint` after it."""

    @abstractmethod
    def checkpoint(self, position: Position) -> None:
        """Record that the changes that ended before `position` are durable in the cache. Old records may go."""

    @abstractmethod
    def abandoned(self) -> Iterator[AbandonedLog]:
        """Yield what dead processes left. Each is held first: its process can end nothing any more."""

    @abstractmethod
    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        """Return the newest `limit` transactions with ids below `before`, newest first."""

    def check(self) -> None:
        """Raise `Unavailable`, with a sentence, unless intents can be opened now. By default nothing is tried."""
        return

    def close(self) -> None:
        """Close the log. What is finished needs no recovery; the rest is left for it. A second call has no effect."""
        return


@runtime_checkable
class Coordination(Protocol):
    """What the nodes that share a log agree on: locks, a flag that the index is incomplete, and open uploads.

    The processes of one node coordinate by themselves, so a log that one node has for itself is no `Coordination`.
    No method has a default: nodes that coordinate by half would not exclude each other. Every method may raise
    `Unavailable` and may be called from any thread.
    """

    @abstractmethod
    def exclusive(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the lock `name` among the nodes. It may be entered and left by different threads.

        Raises `Conflict` when it is held and `wait` is False.
        """

    @abstractmethod
    def set_dirty(self) -> None:
        """Record that this process has index entries still to write. On return the other nodes know it."""

    @abstractmethod
    def clear_dirty(self, position: Position) -> None:
        """Record that this process has written all index entries that were missing before `position` was taken."""

    @abstractmethod
    def any_dirty(self) -> bool:
        """Return whether any process of another node, alive or dead, has index entries still to write.

        The entries of a dead process count until recovery has written them.
        """

    @abstractmethod
    def open_uploads(self, file_id: FileId) -> Sequence[Key]:
        """Return the keys of uploads of `file_id` that other processes have open; those processes may be dead.

        Called while holding the lock of `file_id`.
        """


class SingleNode(Coordination):
    """The coordination of a node that shares its log with no other node: there is nothing to agree on."""

    def exclusive(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def set_dirty(self) -> None:
        return

    def clear_dirty(self, position: Position) -> None:
        return

    def any_dirty(self) -> bool:
        return False

    def open_uploads(self, file_id: FileId) -> Sequence[Key]:
        return ()
