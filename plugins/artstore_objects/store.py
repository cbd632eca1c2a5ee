"""The contract of an object store: whole objects under names, and puts with a condition.

A name is a path with `/` between its parts. Every method may be called from many threads at once; an `Upload` and a
`Reader` belong to one thread at a time. Every method raises `Unavailable` when the store does not answer in time. An
exception that is not of `artstore.errors` is a bug of the store.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from artstore.ids import Key
from artstore.spi import INTERNAL, Reader, Span


class ObjectInfo(NamedTuple):
    """What the store knows about an object without reading it."""

    name: str
    size: int
    """Bytes."""
    etag: str
    """Changes with every put, or at least with every change of the content."""
    age: float
    """Seconds since the object was put, by the clock of the store."""
    writer_id: str = ""
    """The `writer_id` of the put or upload. Empty in a listing, and in a store that cannot keep it."""


class Content(NamedTuple):
    """The content of a small object, read in one call."""

    content: bytes
    etag: str
    writer_id: str


class Upload(Protocol):
    """A new object of any size. No reader sees it before `finish`."""

    @abstractmethod
    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append `piece`. Nothing is durable yet. Raises `StorageFull`, `TooLarge`, `Unavailable`."""

    @abstractmethod
    def finish(self) -> bool:
        """Put the object under its name, if the name is free; return False if it is taken. Durable on return.

        Raises `OutcomeUnknown` when the object may be there, or may still appear. After `StorageFull`, `TooLarge` (the
        store takes no object of that size) and `Unavailable` it is not there. Called once.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written. Never raises. Has no effect after a `finish` that returned True, and twice."""


class ObjectStore(Protocol):
    """An object store. Subclass it and write the seven abstract methods; the others have defaults.

    A backend gets its guarantees from the conditions of `put`, of `delete` and of `Upload.finish`. The store itself
    must check them, atomically, for all the processes and machines that use it.
    """

    @abstractmethod
    def head(self, name: str) -> ObjectInfo | None:
        """Return what is known about the object `name`, or None when there is none."""

    @abstractmethod
    def get(self, name: str, limit: int) -> Content | None:
        """Return the first `limit` bytes of the object `name`, or None when there is none."""

    @abstractmethod
    def put(
        self,
        name: str,
        content: bytes,
        *,
        writer_id: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        """Put a small object, whole; durable on return. Return False, and change nothing, if a condition fails.

        `if_absent`: there must be no object of that name. `if_match`: there must be one with this etag. When the reply
        was lost, read the object to find out what happened. Raises `OutcomeUnknown` when the put may have happened, or
        may still happen; after `StorageFull` and `Unavailable` it did not.
        """

    @abstractmethod
    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Remove the object, if it has the etag `if_match`. No such object is no error. Durable on return."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo | str]:
        """Yield one level below `prefix`, in any order: its objects, and the prefixes of deeper levels.

        `prefix` is empty or ends in `/`; so does each prefix that is yielded. A listing shows every object that was
        there before it began and stays until its end.
        """

    @abstractmethod
    def upload(self, name: str, writer_id: str) -> Upload:
        """Begin a new object. Raises `StorageFull`."""

    @abstractmethod
    def open(self, name: str, key: Key) -> Reader | None:
        """Open the object for reading, or return None when there is none. Errors name it by `key`."""

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects below `prefix`, at every level. The default calls `list` for each level."""
        for found in list(self.list(prefix)):
            if isinstance(found, str):
                yield from self.walk(found)
            else:
                yield found

    def copy(self, source: ObjectInfo, target: str) -> None:
        """Copy an object to the name `target`, which is free; durable on return. The default sends it through here."""
        reader = self.open(source.name, Key(source.name))
        if reader is None:
            return
        try:
            upload = self.upload(target, "")
            try:
                for piece in reader.pieces(Span(0, reader.size)):
                    upload.write(piece)
                upload.finish()
            finally:
                upload.abort()
        finally:
            reader.close()

    def list_uploads(self) -> Iterator[str]:
        """Yield the names with an unfinished upload, of any process, as far as the store knows. The default: none.

        Uploads of other applications to the same store are not ours, here and in `abort_uploads`.
        """
        yield from ()

    def abort_uploads(self, name: str | None = None, *, older_than: float = 0.0) -> None:
        """Abort unfinished uploads, to `name` or to any name, that are older than `older_than` seconds.

        The default aborts none: right for a store in which an upload that is not finished leaves nothing.
        """
        return

    def check(self, *, writing: bool) -> None:
        """Raise `Unavailable`, with a sentence, unless reading (and `writing`) works now.

        The default asks for one object, and puts a small one.
        """
        if writing:
            self.put(f"{INTERNAL}/probe", b"")
        self.head(f"{INTERNAL}/probe")

    def close(self) -> None:
        """Release everything. A second call has no effect. The default has nothing to release."""
        return
