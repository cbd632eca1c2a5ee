"""The rooms: what a naming, a backend, a cache, a log and an auth must do. Prose plus types.

Everything here is synchronous and called from many threads at once. A provider class carries `API` (the
generation of this file it was written for) and `Settings` (a pydantic model, `extra="forbid"`), and is
built once per process with `(settings, context)`. Providers raise the errors of `artstore.errors`,
translated once at their edge; any other exception is a bug and is reported as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import BaseModel

from artstore.attr import SIDECAR_LIMIT, Attr
from artstore.hookspecs import Change

API = 1
PIECE = 1 << 20
"""Bytes moved at a time, everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a provider is told about the element it serves."""

    home: Path
    files: Path
    """The store of an embedded element: only a backend writes here."""
    state: Path
    """What may be deleted while the element is stopped: caches, logs, and keys made on first start."""
    reading: bool = False
    """Opened to be looked at, perhaps beside an element that serves: building makes, settles and claims nothing,
    and nothing that changes anything is called. A cache that is not there yet is `NotFound`."""
    element_id: str = ""
    """For observers, which are built once it is known."""
    inner: Any = None
    """The provider that this one wraps, and closes: one whose settings have a field `inner` (its name) is given it."""


class NoSettings(BaseModel, extra="forbid"):
    """For a provider that has nothing to set."""


# --- naming -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """Where new data goes: `directory` has `/` between its parts, `filename` has none."""

    directory: str
    filename: str

    @property
    def key(self) -> str:
        return f"{self.directory}/{self.filename}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a filename of ours tells. `uuid` is the part of the id that the name carries."""

    stem: str
    user: str
    timestamp: str
    uuid: str
    ext: str


class Naming(Protocol):
    """Makes names that people can read, and finds its way back from them. Pure: no I/O."""

    API: ClassVar[int]

    # A property, so that a class within the class fits; a plain attribute would have to be settable.
    @property
    def Settings(self) -> type[BaseModel]: ...

    def name(self, *, file_id: str, original_filename: str, username: str, at: datetime) -> Name:
        """The name of a new file; with `.attr.json` behind it never over 230 bytes. Never raises on text."""

    def parse(self, filename: str) -> Parsed | None:
        """What `filename` tells, or None when it is not ours. Never raises."""

    def carries(self, filename: str, file_id: str) -> bool:
        """Whether `filename` could be the name of `file_id`; False positives are checked by the caller."""

    def directory(self, file_id: str) -> str | None:
        """The directory of an id that we made, told by the id alone; None when the id does not tell."""

    def directory_at(self, at: datetime) -> str:
        """The directory that names made at `at` get. Directories sort as their times do."""


# --- backend ----------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A piece of data: `length` bytes from `offset`."""

    offset: int
    length: int


class Space(NamedTuple):
    """Bytes of the volume below the store; None where the backend has no such limit."""

    total: int | None
    free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Facts a backend declares; the shipped suite holds it to them."""

    durable: bool
    """What `publish`, `replace_sidecar` and `entomb` did survives power loss once they return."""
    atomic_sidecar: bool
    """A reader sees the old sidecar or the new one, whole."""
    shared: bool
    """Several machines may serve this store at once."""
    processes: bool = True
    """Several processes of one home serve the same store; where not, each has one of its own."""
    sidecar_limit: int = SIDECAR_LIMIT
    """Bytes that a sidecar may have; fewer than 4,096 where a wrapper keeps something of its own in it."""
    traces: bool = True
    """`reap` and `staged` know every unfinished upload. Otherwise the log is the only trace, and made durable first."""
    reuses_keys: bool = True
    """A key is free again once it was forgotten. Otherwise it stays taken while a late request may still come."""

    def weaker(self) -> tuple[str, ...]:
        """What a store should promise and this one does not, in words."""
        lost = (
            ("a file is replaced whole", self.atomic_sidecar),
            ("what was written survives power loss", self.durable),
        )
        return tuple(words for words, promised in lost if not promised)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one directory holds under one key."""

    key: str
    data: bool
    sidecar: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of something a dead process left: the cache row of `key` is to be compared again."""

    key: str
    outcome: Literal["finished", "undone", "quarantined"]


class Writer(Protocol):
    """New data on its way; nobody sees it before `publish`. Used by one thread at a time."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append. Raises `StorageFull`, `Unavailable`: then only `abort` is left."""

    def publish(self, sidecar: bytes) -> None:
        """Make the data durable, then the sidecar; on return both are, under their names.

        The appearance of the sidecar is the commit point: a valid sidecar never exists before its data
        is durable. On any exception nothing is published and nothing is left, but for `Undecided`: then that is
        found out by `Backend.settle`, later. `Conflict`: the key is taken.
        """

    def abort(self) -> None:
        """Leave nothing. Harmless after `publish` (whatever it raised), after `abort`, and twice. Never raises."""


class Reader(Protocol):
    """Data held open: stays readable while the file is deleted under it."""

    size: int
    path: str | None
    """A path at which the same bytes lie on this machine as long as the file is there, or None."""

    def pieces(self, span: Span) -> Iterator[bytes]:
        """The bytes of `span`, in pieces of at most 1 MiB. Raises `Damaged` when data ends too early."""

    def close(self) -> None:
        """Give everything back. Harmless twice."""


class Backend(Protocol):
    """Where data and sidecars lie. Narrow and stateless, like an object store.

    Under a key that cannot be one (empty parts, `..`, no directory) nothing is found, and nothing outside reached.
    """

    API: ClassVar[int]

    @property
    def Settings(self) -> type[BaseModel]: ...

    capabilities: Capabilities

    def create(self, key: str) -> Writer:
        """Begin new data. Raises `Conflict` when `key` is taken, `StorageFull`, `Unavailable`.

        A tombstone takes a key too: whoever finishes that deletion must not meet the data of a successor.
        """

    def sidecar(self, key: str) -> bytes:
        """The sidecar, at most 4,097 bytes of it. Raises `NotFound`, `Damaged` (not a plain file)."""

    def replace_sidecar(self, key: str, old: bytes, new: bytes) -> None:
        """Swap `old` for `new`; durable on return. Raises `NotFound`, `PreconditionFailed` when it is not `old`.

        Of several at once, and of one beside `entomb`, in whatever threads and processes, one comes first.
        After `Unavailable` either may be there.
        """

    def entomb(self, key: str, old: bytes) -> None:
        """Take the sidecar away: the file is deleted, durably, and a tombstone remembers it.

        Works on a full disk. Raises `NotFound` when there is no sidecar, `PreconditionFailed` when it is not `old`.
        """

    def remove_data(self, key: str) -> None:
        """Remove data that has no sidecar. Removing what is not there is no error."""

    def tombstones(self) -> Iterator[str]:
        """The keys that were entombed and not forgotten."""

    def forget(self, key: str) -> None:
        """Remove the tombstone; called once the deletion is durable everywhere. Not there: no error."""

    def quarantine(self, key: str) -> None:
        """Move data and sidecar of `key`, whichever are there, out of the tree; nothing is dropped."""

    def read(self, key: str) -> Reader:
        """Open data. Raises `NotFound`, `Damaged` (not a plain file), `Unavailable`."""

    def scan(self, directory: str) -> Iterator[Entry]:
        """What lies in one directory, by key, in no order; foreign names too. Not there: nothing."""

    def age(self, key: str) -> float:
        """Seconds since data or sidecar of `key`, whichever is younger, came to its place."""

    def directories(self, since: str = "") -> Iterator[str]:
        """The directories that hold files, sorted, from `since` on (inclusive)."""

    def strays(self) -> Iterator[str]:
        """What lies in the store where no key leads, such as at its root: never ours, listed for people."""

    def staged(self, key: str | None = None) -> Iterator[str]:
        """The keys that processes, live and dead, have under way: what is half there under them is no damage, and no
        other upload takes them. Where one `key` is asked for, as each upload under a chosen id does, the others need
        not be told."""

    def reap(self) -> Iterator[Settled]:
        """Settle what dead processes left half-done; never touches what a live one holds.

        Each unfinished publication ends whole (its sidecar was published) or gone. Idempotent, and
        safe when killed half-way.
        """

    def settle(self, key: str) -> bool:
        """Make the unfinished upload of `key` committed (True) or undone (False), either durable on return.

        The caller knows that its writer is dead, fenced off, done or has given up. After False its publication by
        another process fails, however late it comes, and what it left is gone, or goes by `reap`. Idempotent. Raises
        `Unavailable`.
        """

    def lonely(self) -> bool:
        """Whether no other live process writes to this store; False where that cannot be told."""

    def record(self, name: str) -> bytes | None:
        """A small document of the element itself (`element.json`, `checkpoint.json`), or None."""

    def put_record(self, name: str, document: bytes, *, new: bool = False, old: bytes | None = None) -> None:
        """Replace such a document; atomic, durable on return. `new`: raises `Conflict` when there is one already;
        `old`: raises `PreconditionFailed` when another one is there. Of several with conditions one comes first."""

    def space(self) -> Space:
        """What is left. Raises `Unavailable`."""

    def check(self, *, writing: bool) -> None:
        """Raise `Unavailable` with a sentence unless reading (and writing) works now."""

    def close(self) -> None:
        """Give everything back; unfinished writers are lost."""


Rekeyed = Literal["renewed", "present", "plain", "damaged"]


@runtime_checkable
class SupportsRekey(Protocol):
    """A backend that encrypts, and can bring every file under its present master key (`artstore rekey`)."""

    def rekey(self) -> Iterator[Rekeyed]:
        """One file after the other, and what was done or found: its key was wrapped anew; it was so already; it is
        not encrypted; its key cannot be opened. Data is not touched. May be stopped and begun again, and run beside
        elements that serve. Raises `Unavailable`.
        """


@runtime_checkable
class SupportsRedirect(Protocol):
    """A backend whose data can be read past us, from an address that holds for a moment."""

    def redirect(self, key: str, *, content_type: str, disposition: str) -> str | None:
        """The address, which answers with these two headers; None when that is switched off. Raises `Unavailable`."""


# --- cache ------------------------------------------------------------------------------------------------

Sort = Literal["uploaded_at", "original_filename", "size"]


class Position(NamedTuple):
    """The last row of a page: its sort value and its id."""

    value: str | int
    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search; every condition must hold. `size` in bytes, times as in `Attr`.

    `words`: each must occur, regardless of case, somewhere in name, description or tags (as a part of a
    word, in any language; no character is special). `after` starts behind that position.
    """

    words: tuple[str, ...] = ()
    filename: str | None = None
    uploaded_by: str | None = None
    content_type: str | None = None
    tags: tuple[str, ...] = ()
    sha256: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    uploaded_after: str | None = None
    """Strictly later."""
    uploaded_before: str | None = None
    """Strictly earlier."""
    sort: Sort = "uploaded_at"
    descending: bool = True
    limit: int = 100
    after: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of the answer; `next` is None on the last page."""

    items: Sequence[Attr]
    next: Position | None


class Totals(NamedTuple):
    """How many files the cache knows, and the sum of their sizes in bytes."""

    files: int
    size: int


class Cache(Protocol):
    """The index that may be deleted at any time. Never the truth: the kernel believes sidecars only.

    It is built also when its database does not answer: then, and whenever it does not within its deadline, every
    method raises `Unavailable`, and a later call tries again. A database that was lost, damaged or changed by
    somebody else gives way to a new one, without rows and without a mark: the kernel then fills it anew.
    """

    API: ClassVar[int]

    @property
    def Settings(self) -> type[BaseModel]: ...

    def put(self, attrs: Sequence[Attr]) -> None:
        """Insert or replace rows by `file_id`; a row of a newer revision stays. Readers see it on return."""

    def remove(self, file_ids: Sequence[str]) -> None:
        """Delete rows; those not there are no error. Readers see it on return."""

    def key(self, file_id: str) -> str | None:
        """Where the file lies, or None when no row says so."""

    def search(self, query: Query) -> Page:
        """One page, ordered by (sort value, id); text compares by code point. Costs the same at any depth."""

    def directory(self, directory: str) -> dict[str, str]:
        """The rows of one directory: `storage_filename` -> `file_id`."""

    def rows(self, directory: str) -> Iterator[tuple[str, Attr | None]]:
        """The rows of one directory as `file_id` and what a search would say of it, in no order.

        None for a row that cannot be read, or whose parts contradict each other. Read piece by piece, so
        not of one moment.
        """

    def directories(self, since: str = "") -> Iterator[str]:
        """The directories that have rows, sorted by code point, from `since` on (inclusive)."""

    def totals(self) -> Totals:
        """Cheap: called on every upload when the element has a capacity."""

    def flush(self) -> None:
        """Make everything done before this call durable."""

    def stamp(self) -> str | None:
        """The mark last set, or None in a new cache: a cache whose mark is unknown is rebuilt."""

    def set_stamp(self, stamp: str, *, instead_of: str | None = None) -> None:
        """Set the mark; durable on return together with everything before it.

        Raises `Unavailable` when `instead_of` is given and the mark is another: the cache was begun anew meanwhile.
        """

    def clear(self) -> None:
        """Forget every row and the mark."""

    def check(self) -> None:
        """Raise `Unavailable` with a sentence unless reading and writing work now."""

    def close(self) -> None:
        """Give everything back."""


@runtime_checkable
class SupportsMigration(Protocol):
    """A class of caches whose schema can be moved by hand (`artstore db`)."""

    def migrate(self, settings: Any, context: Context, target: str | None) -> str | None:
        """Go to `target`: a revision, `head`, `base`, or steps such as `-1`; None stays. The revision then.

        Raises `ConfigError` for a target that does not exist, `Conflict` when it is known that the element runs,
        `Unavailable`.
        """


@runtime_checkable
class SupportsOwner(Protocol):
    """A cache or a log in a database that several elements use, where two could be told to use the same tables."""

    def belong(self, element_id: str) -> None:
        """Remember whose the tables are; durable on return, or, where the database does not answer, before they are
        used. Raises `ConfigError` when they are another element's."""


# --- log --------------------------------------------------------------------------------------------------

Status = Literal["pending", "committed", "rolled_back", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(slots=True, kw_only=True)
class Transaction:
    """An intent and its end, as the log tells it. `error` says why it did not commit."""

    id: str
    operation: str
    file_id: str | None
    key: str | None
    by: str
    status: Status
    started: str
    finished: str | None = None
    error: str | None = None
    revision: int = 0
    """Of an update: the one it makes."""


class Intent(Protocol):
    """An intent in the hands of the process that opened it; ended once, which never raises.

    When the log cannot be written, or no longer takes the process for alive, the intent stays as it
    is: recovery looks at it.
    """

    def commit(self) -> None:
        """It was done, and the cache knows."""

    def roll_back(self, error: str) -> None:
        """It failed or was given up, and everything of it was undone."""

    def fail(self, error: str) -> None:
        """It failed, and what is left of it is for recovery."""

    def sync(self) -> None:
        """Its opening is durable on return. Raises `Unavailable`, also when it is in other hands by now."""


class Abandoned(Protocol):
    """What one dead process left in the log, held by this one until it is let go."""

    @property
    def dead(self) -> bool:
        """Whether it is dead for sure; where not, it may be late, and wake."""

    @property
    def pending(self) -> Sequence[Transaction]:
        """Not ended."""

    @property
    def unflushed(self) -> Sequence[Transaction]:
        """Ended, but perhaps not durable in the cache."""

    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        """Say what became of an intent. Never raises: what cannot be said is found again."""

    def settle(self) -> None:
        """Let go; unless an end could not be said, nothing of it is of concern any more."""

    def release(self) -> None:
        """Let go as it is. Harmless after `settle`."""


class Log(Protocol):
    """Intents: what was begun, and what became of it. It does not depend on the cache.

    The kernel's own keeps segment files, for the processes of one node. Nodes that share a store need
    one that they share as well.
    """

    API: ClassVar[int]

    @property
    def Settings(self) -> type[BaseModel]: ...

    def begin(
        self, op: str, *, by: str, file_id: str | None = None, key: str | None = None, revision: int = 0
    ) -> Intent:
        """Open an intent. Raises `StorageFull`, `Unavailable`: then nothing may be done."""

    def marks(self) -> object:
        """How far this process has come, to be handed to `flushed` after the cache was flushed."""

    def flushed(self, marks: Any) -> None:
        """What ended before `marks` was taken is durable in the cache; the old may go."""

    def owe(self) -> None:
        """Rows are owed by this process: the nodes that share the log know on return. Raises `Unavailable`."""

    def paid(self, marks: Any) -> None:
        """Of what was owed before `marks` was taken nothing is owed any more. Raises `Unavailable`."""

    def owing(self) -> bool:
        """Whether any process, alive or dead, owes rows; what a dead one owed is owed until it is settled.

        Of the processes of one node this need not tell: they know of each other. Raises `Unavailable`.
        """

    def abandoned(self) -> Iterator[Abandoned]:
        """What dead processes left. Each is held, and can end nothing any more, before it is given."""

    def begun(self, file_id: str) -> Sequence[str]:
        """The keys of uploads of `file_id` that others have not ended, of whom it is not known whether they live.

        Asked by who is alone with that file. Raises `Unavailable`.
        """

    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        """The newest `limit` transactions with ids below `before`, newest first."""

    def exclusive(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Alone among the nodes that share the log; processes of one node exclude each other already.

        Entered and left by any thread. Raises `Unavailable`, and `Conflict` when it is not to `wait` for its turn.
        """

    def check(self) -> None:
        """Raise `Unavailable` with a sentence unless intents can be opened now."""

    def close(self) -> None:
        """Leave what is settled settled; the rest is for recovery."""


# --- auth -------------------------------------------------------------------------------------------------

FILES_READ = "files:read"
FILES_WRITE = "files:write"
FILES_DELETE = "files:delete"
STORAGE_READ = "storage:read"
STORAGE_WRITE = "storage:write"

ROLES: dict[str, frozenset[str]] = {
    "reader": frozenset({FILES_READ}),
    "user": frozenset({FILES_READ, FILES_WRITE}),
    "operator": frozenset({FILES_READ, FILES_WRITE, FILES_DELETE, STORAGE_READ}),
    "admin": frozenset({FILES_READ, FILES_WRITE, FILES_DELETE, STORAGE_READ, STORAGE_WRITE}),
}
"""A role is a set of scopes. An unknown role has none."""

SCOPES = ROLES["admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: `id` never changes, `name` is shown, `scopes` is what they may do."""

    id: str
    name: str
    scopes: frozenset[str] = field(default_factory=frozenset)


class Auth(Protocol):
    """Tells who a bearer token speaks for."""

    API: ClassVar[int]

    @property
    def Settings(self) -> type[BaseModel]: ...

    def authenticate(self, token: str) -> Principal:
        """The caller. Raises `Unauthorized` (a sentence for the caller, no secrets), `Unavailable`."""

    def check(self) -> None:
        """Raise `Unavailable` unless tokens can be checked now."""

    def close(self) -> None:
        """Give everything back."""


@runtime_checkable
class SupportsIssue(Protocol):
    """An auth that can make tokens itself (`artstore token`)."""

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        """A token for `user`, valid for `seconds`. Raises `ConfigError` when no private key is at hand."""


# --- observer ---------------------------------------------------------------------------------------------


class Observer(Protocol):
    """Hears of every committed change, at least once. Called by one thread, in the order of this process's changes.

    Several processes may observe one element: of one file, the order is that of its revisions.
    """

    API: ClassVar[int]

    @property
    def Settings(self) -> type[BaseModel]: ...

    def committed(self, op: Change, file_id: str, key: str, attr: Attr | None) -> None:
        """Note a change, and do at leisure what it calls for. `attr`: the file as it is by now, or was before `delete`.

        After a crash changes are told again, perhaps only the last one of each file, and a deletion then with no
        `attr`. Raises `StorageFull`, `Unavailable`: then it is told again soon. Any other exception is a bug, and
        the change is lost on this observer.
        """

    def flush(self) -> None:
        """What was noted is durable on return: it is not told again. Raises `StorageFull`, `Unavailable`."""

    def close(self) -> None:
        """Give everything back."""
