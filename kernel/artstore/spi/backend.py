"""The role `backend`: where data and sidecars lie.

A backend keeps two promises, in two Protocols: `Backend` is a store, and `Recoverable` is what recovery needs after a
process died. Subclass both. The author of a backend for an object store implements the narrower `ObjectStore` of
`artstore_objects` instead and gets both from there.

Every method may be called from many threads at once. Under a key that is not valid (empty parts, `..`, no directory) a
backend finds nothing and reaches nothing outside of its store.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from artstore.attr import SIDECAR_LIMIT, SIDECAR_SUFFIX
from artstore.errors import NotFound
from artstore.ids import Key
from artstore.spi.provider import Configurable

INTERNAL = ".artstore"
"""The directory of a store that holds what is not a file. No key lies below it."""

_PART = r"(?!\.{1,2}(?:/|$))[^/\0]+"
_KEY = re.compile(
    rf"(?!{re.escape(INTERNAL)}/)({_PART}(?:/{_PART})*)/({_PART})(?<!{re.escape(SIDECAR_SUFFIX)})"
)


def split_key(key: Key) -> tuple[str, str]:
    """Return the directory and the filename of `key`. Raises `NotFound` when it is not valid: no file lies there."""
    parts = _KEY.fullmatch(key)
    if parts is None:
        raise NotFound(f"There is no {key}.")
    return parts[1], parts[2]


class Span(NamedTuple):
    """A part of some data: `length` bytes from `offset`."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Facts that a backend declares about itself. The shipped suite holds the backend to them."""

    durable: bool
    """What `publish`, `replace_sidecar` and `delete` changed survives a power loss once they return."""
    atomic_sidecar: bool
    """A reader sees the old sidecar or the new one, whole."""
    shared: bool
    """Several machines may serve this store at the same time."""
    multi_process: bool = True
    """Several processes of one home serve the same store. If not, each process has a store of its own."""
    sidecar_limit: int = SIDECAR_LIMIT
    """The most bytes that a sidecar may have: fewer than 4,096 for a wrapper that adds something to it."""
    lists_uploads: bool = True
    """`recover` and `in_progress` know every unfinished upload. If not, only the log does, and the kernel makes the
    intent durable before it publishes."""
    keys_reusable: bool = True
    """A key is free again after `purge`. If not, it stays taken for as long as a late request may still arrive."""
    max_file_size: int | None = None
    """The most bytes that the data of one file may have, where that is known ahead."""

    def missing_guarantees(self) -> tuple[str, ...]:
        """Return, in words, what a store should guarantee and this one does not."""
        guarantees = (
            ("a file is replaced whole", self.atomic_sidecar),
            ("what was written survives power loss", self.durable),
        )
        return tuple(words for words, given in guarantees if not given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a directory holds under one key."""

    key: Key
    data: bool
    sidecar: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of an unfinished change of a dead process. The index entry of `key` has to be compared again."""

    key: Key
    outcome: Literal["finished", "undone", "quarantined"]


class Writer(Protocol):
    """New data, invisible before `publish`. Used by one thread at a time."""

    @abstractmethod
    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append `piece`. Nothing is durable yet. Raises `TooLarge` when the store can hold no file of that size,
        `StorageFull`, `Unavailable`; then only `abort` may be called."""

    @abstractmethod
    def publish(self, sidecar: bytes) -> None:
        """Make the data durable, then the sidecar. On return both are durable, under their names.

        The appearance of the sidecar is the commit point: a valid sidecar never exists before its data is durable.
        Raises `OutcomeUnknown` when the outcome is in doubt: `Recoverable.resolve` decides it later. After any other
        exception nothing is published and nothing is left: `Conflict` (the key is taken), `StorageFull`,
        `Unavailable`. Called once.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written. Never raises. Has no effect after `publish`, whatever it raised, and twice."""


class Reader(Protocol):
    """Data held open: it stays readable while the file is deleted. Used by one thread at a time."""

    size: int
    """The number of bytes of the data."""
    path: str | None
    """A path of the same bytes on this machine, valid for as long as the file exists; or None."""

    @abstractmethod
    def pieces(self, span: Span) -> Iterator[bytes]:
        """Yield the bytes of `span` in pieces of at most 1 MiB. Raises `Damaged` when the data ends too early."""

    @abstractmethod
    def close(self) -> None:
        """Release the data. A second call has no effect."""


@runtime_checkable
class Backend(Configurable, Protocol):
    """A store of data and sidecars: narrow and stateless, like an object store.

    Every change that names an `if_match` is a compare-and-swap: of several such changes of one thing, in whatever
    threads and processes, one comes first, and the others raise `PreconditionFailed`. After `Unavailable` a change of
    a sidecar or a document is in doubt: the old bytes or the new ones may be there.
    """

    capabilities: Capabilities

    @abstractmethod
    def create(self, key: Key) -> Writer:
        """Begin new data. Raises `Conflict` when `key` is taken, `StorageFull`, `Unavailable`.

        A key with a tombstone is taken as well: the process that finishes that deletion must not remove newer data.
        """

    @abstractmethod
    def read(self, key: Key) -> Reader:
        """Open the data of `key`. Raises `NotFound`, `Damaged` (not a plain file), `Unavailable`."""

    @abstractmethod
    def read_sidecar(self, key: Key) -> bytes:
        """Return at most 4,097 bytes of the sidecar. Raises `NotFound`, `Damaged` (not a plain file), `Unavailable`."""

    @abstractmethod
    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        """Replace the sidecar, if it equals `if_match`; durable on return.

        Replacing a sidecar with the same bytes makes it durable once more. Raises `NotFound`, `PreconditionFailed`,
        `StorageFull`, `Unavailable` (in doubt).
        """

    @abstractmethod
    def delete(self, key: Key, *, if_match: bytes) -> None:
        """Delete the file by turning its sidecar, if it equals `if_match`, into a tombstone; durable on return.

        The data stays until `Recoverable.delete_data`. Works on a full disk. Raises `NotFound` when there is no
        sidecar, `PreconditionFailed`, `Unavailable` (in doubt).
        """

    @abstractmethod
    def list(self, directory: str) -> Iterator[Entry]:
        """Yield what lies in one directory, by key and in no order, foreign names included.

        A directory that does not exist holds nothing. In the root, `""`, lies no key: each name there is foreign, and
        is reported as data.
        """

    @abstractmethod
    def list_directories(self, since: str = "") -> Iterator[str]:
        """Yield the directories that hold files, sorted, from `since` on (inclusive).

        One that cannot be read may hold some: it is yielded, and `list` raises `Unavailable`. The same holds for what
        is below it.
        """

    @abstractmethod
    def read_document(self, name: str) -> bytes | None:
        """Return a small document of the element itself (`element.json`, `checkpoint.json`), or None."""

    @abstractmethod
    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        """Replace such a document whole; durable on return.

        Raises `Conflict` when `if_absent` and there is one, `PreconditionFailed` when `if_match` is given and there
        is none or another, `StorageFull`, `Unavailable` (in doubt).
        """

    def free_bytes(self) -> int | None:
        """Return the free bytes of the volume, or None when the store has no such limit. Raises `Unavailable`."""
        return None

    def check(self, *, writing: bool) -> None:
        """Raise `Unavailable`, with a sentence, unless reading (and `writing`) works now. The default tries nothing."""
        return

    def close(self) -> None:
        """Release everything. Unfinished writers are lost. A second call has no effect."""
        return


@runtime_checkable
class Recoverable(Protocol):
    """What recovery needs of a backend. Every method is idempotent and safe when the process dies in the middle."""

    @abstractmethod
    def delete_data(self, key: Key) -> None:
        """Remove data that has no sidecar. Data that does not exist is no error. Not necessarily durable on return."""

    @abstractmethod
    def list_tombstones(self) -> Iterator[Key]:
        """Yield the keys that were deleted and not purged."""

    @abstractmethod
    def purge(self, key: Key) -> None:
        """Remove the tombstone. Called when the deletion is durable in the index. No tombstone is no error."""

    @abstractmethod
    def quarantine(self, key: Key) -> None:
        """Move data and sidecar of `key`, those that exist, out of the tree. Nothing is dropped; durable on return."""

    @abstractmethod
    def age(self, key: Key) -> float:
        """Return the seconds since data or sidecar of `key`, the younger of those that exist, came to its place.

        Measured by the clock of the store. Raises `NotFound`.
        """

    @abstractmethod
    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        """Yield the keys with an upload in progress, by live or dead processes.

        Incomplete data under them is expected, and they must not be reused. With `key`, as each upload under a chosen
        id asks, only that key need be reported.
        """

    @abstractmethod
    def recover(self) -> Iterator[Recovered]:
        """Finish, undo or quarantine each unfinished publication of dead processes, and yield what became of it.

        A publication is finished when its sidecar was published, else undone; a pair that the disk broke goes to
        quarantine. Never touches what a live process holds.
        """

    @abstractmethod
    def resolve(self, key: Key) -> bool:
        """Decide the upload of `key` that is in doubt: return whether it is committed; durable on return.

        The caller knows that its writer is dead, fenced off, finished or has given up. After False every later
        publication of it by another process fails, and what it left is removed now or by `recover`. Raises
        `Unavailable`.
        """

    def is_sole_writer(self) -> bool:
        """Return whether no other live process writes to this store; False when that cannot be known."""
        return False


class RecoverableBackend(Backend, Recoverable, Protocol):
    """Both promises: what the kernel needs. A class that subclasses `Backend` and `Recoverable` is one."""


Rekeyed = Literal["renewed", "present", "plain", "damaged"]


@runtime_checkable
class SupportsRekey(Protocol):
    """A backend that encrypts and can move every file to its present master key (`artstore rekey`)."""

    def rekey(self) -> Iterator[Rekeyed]:
        """Yield one outcome per file: `renewed` (its key was wrapped again), `present` (it already was), `plain` (it is
        not encrypted), `damaged` (its key cannot be unwrapped).

        The data is not touched. It may be stopped and started again, and run beside elements that serve. Raises
        `Unavailable`.
        """


@runtime_checkable
class SupportsRedirect(Protocol):
    """A backend whose data can be read directly, at an address that is valid for a short time."""

    def redirect(self, key: Key, *, content_type: str, disposition: str) -> str | None:
        """Return the address, which answers with these two headers; None when this is switched off. Raises
        `Unavailable`."""
