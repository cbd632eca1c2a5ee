"""What the protocol for object stores asks of a store: whole objects under names, and puts with a condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from artstore.ids import Key
from artstore.spi import Reader


class Stored(NamedTuple):
    """An object as a look or a listing shows it. `age` in seconds since it came to its place."""

    name: str
    size: int
    tag: str
    age: float
    mark: str = ""
    """What it was put with; listings do not tell."""


class Content(NamedTuple):
    """A small object, read."""

    content: bytes
    tag: str
    mark: str


class Upload(Protocol):
    """A large object on its way; nobody sees it before `finish`."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append. Raises `StorageFull`, `Unavailable`."""

    def finish(self) -> bool:
        """Put it under its name, durably; False when the name is taken. Raises `OutcomeUnknown`, `Unavailable`."""

    def abort(self) -> None:
        """Leave nothing. Harmless after `finish` and twice. Never raises."""


class Objects(Protocol):
    """The store. Every method raises `Unavailable` when it does not answer in time, and `StorageFull`."""

    def look(self, name: str) -> Stored | None:
        """What lies under `name`, or None."""

    def get(self, name: str, limit: int) -> Content | None:
        """The first `limit` bytes of it, or None."""

    def put(
        self, name: str, content: bytes, *, mark: str = "", absent: bool = False, tag: str | None = None
    ) -> bool:
        """Put it there; atomic, durable on return. False when the condition does not hold.

        `absent`: only when nothing is there; `tag`: only in place of what has that tag. A reply that was lost
        is found out by looking. Raises `OutcomeUnknown` when it may have happened, or may yet.
        """

    def delete(self, name: str, tag: str | None = None) -> None:
        """Remove it (if it still has that tag). Not there: no error."""

    def copy(self, source: Stored, target: str) -> None:
        """Copy within the store; durable on return."""

    def list(self, prefix: str) -> Iterator[Stored | str]:
        """One level below `prefix` (ends in `/` or is empty): objects, and prefixes of more (end in `/`)."""

    def walk(self, prefix: str) -> Iterator[Stored]:
        """All objects below `prefix`."""

    def upload(self, name: str, mark: str) -> Upload:
        """Begin a new object of any size."""

    def open(self, name: str, key: Key) -> Reader | None:
        """Open it for reading; `key` is what errors call it."""

    def under_way(self) -> Iterator[str]:
        """Names of large objects that anybody has on the way, as far as the store tells."""

    def drop_uploads(self, name: str | None = None, *, older: float = 0.0) -> None:
        """End large objects on their way (to `name`) that are older than `older` seconds."""

    def check(self, *, writing: bool) -> None:
        """Raise `Unavailable` with a sentence unless reading (and writing) works now."""

    def close(self) -> None:
        """Give everything back."""
