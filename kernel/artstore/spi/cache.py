"""The role `cache`: an index of all files that can be rebuilt from the sidecars."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from artstore.attr import Attr
from artstore.ids import FileId, Key
from artstore.spi.provider import Configurable, Context

Sort = Literal["uploaded_at", "updated_at", "original_filename", "size"]


class Cursor(NamedTuple):
    """The last entry of a page: its sort value and its id."""

    value: str | int
    file_id: FileId


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search. Every condition must hold. `size` in bytes, times as in `Attr`.

    `words`: each must occur somewhere in name, description or tags, also as a part of a word, when both are folded by
    `artstore.folding.fold`; no character is special. `after` continues behind that entry.
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
    updated_after: str | None = None
    """Strictly later."""
    updated_before: str | None = None
    """Strictly earlier."""
    sort: Sort = "uploaded_at"
    descending: bool = True
    limit: int = 100
    after: Cursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of the answer. `next` is None on the last page."""

    items: Sequence[Attr]
    next: Cursor | None


class Totals(NamedTuple):
    """The number of files in the cache, and the sum of their sizes in bytes."""

    files: int
    size: int


@runtime_checkable
class Cache(Configurable, Protocol):
    """The database behind the index. It may be deleted at any time and is never the truth: that is the sidecars.

    It is built also when its database does not answer. Then, and whenever the database does not answer within its
    deadline, every method raises `Unavailable`, and a later call tries again. A database that was lost, damaged or
    replaced is replaced by an empty one without a generation; the kernel then rebuilds it. Every method may be called
    from many threads at once.
    """

    @abstractmethod
    def put(self, attrs: Sequence[Attr]) -> None:
        """Insert or replace entries by `file_id`. An entry of a newer revision stays. Visible to readers on return."""

    @abstractmethod
    def remove(self, file_ids: Sequence[FileId]) -> None:
        """Delete entries. Entries that do not exist are no error. Visible to readers on return."""

    @abstractmethod
    def key(self, file_id: FileId) -> Key | None:
        """Return where the file lies, or None when there is no entry."""

    @abstractmethod
    def search(self, query: Query) -> Page:
        """Return one page, ordered by (sort value, id); text compares by code point. Costs the same at any depth."""

    @abstractmethod
    def ids_in(self, directory: str) -> dict[str, FileId]:
        """Return the entries of one directory as `storage_filename` -> `file_id`."""

    @abstractmethod
    def entries_in(self, directory: str) -> Iterator[tuple[FileId, Attr | None]]:
        """Yield the entries of one directory as `file_id` and what a search would return, in no order.

        None for an entry that cannot be read, or whose parts contradict each other. It is read in several steps, so it
        is not a snapshot.
        """

    @abstractmethod
    def list_directories(self, since: str = "") -> Iterator[str]:
        """Yield the directories that have entries, sorted by code point, from `since` on (inclusive)."""

    @abstractmethod
    def totals(self) -> Totals:
        """Return the totals. Cheap: called on every upload when the element has a capacity."""

    @abstractmethod
    def flush(self) -> None:
        """Make everything done before this call durable."""

    @abstractmethod
    def generation(self) -> str | None:
        """Return the generation last set, or None in a new cache. A cache of an unknown generation is rebuilt."""

    @abstractmethod
    def set_generation(self, generation: str, *, if_match: str | None = None) -> None:
        """Set the generation; durable on return, together with everything before it.

        Raises `Unavailable` when `if_match` is given and the present generation is another: the cache was replaced.
        """

    @abstractmethod
    def clear(self) -> None:
        """Remove every entry and the generation."""

    @abstractmethod
    def check(self) -> None:
        """Raise `Unavailable`, with a sentence, unless reading and writing work now."""

    def close(self) -> None:
        """Release everything. A second call has no effect."""
        return


@runtime_checkable
class SupportsMigration(Protocol):
    """A class of caches whose schema can be moved by hand (`artstore db`)."""

    def migrate(self, settings: Any, context: Context, target: str | None) -> str | None:
        """Move the schema to `target` and return the revision then. `target`: a revision, `head`, `base`, or steps such
        as `-1`; None changes nothing.

        Raises `ConfigError` for a target that does not exist, `Conflict` when the element is known to run,
        `Unavailable`.
        """


@runtime_checkable
class SupportsClaim(Protocol):
    """A cache or a log in a database that several elements use, where two elements could be given the same tables."""

    def claim(self, element_id: str) -> None:
        """Record which element owns the tables; durable on return or, when the database does not answer, before the
        first use. Raises `ConfigError` when another element owns them."""
