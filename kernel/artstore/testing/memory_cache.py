"""A cache in the memory of one process: the reference for `CacheSuite`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel

from artstore.attr import Attr
from artstore.errors import InvalidField, Unavailable
from artstore.folding import fold
from artstore.ids import FileId, Key
from artstore.spi import API, Cache, Context, Cursor, NoSettings, Page, Query, Totals


class MemoryCache(Cache):
    """Entries in a dictionary. Nothing outlives the process."""

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(self, settings: BaseModel | None = None, context: Context | None = None) -> None:
        self._entries: dict[FileId, Attr] = {}
        self._generation: str | None = None
        self._lock = threading.Lock()
        self._closed = False

    def put(self, attrs: Sequence[Attr]) -> None:
        with self._locked():
            for attr in attrs:
                old = self._entries.get(attr.file_id)
                if old is None or attr.revision >= old.revision:
                    self._entries[attr.file_id] = attr

    def remove(self, file_ids: Sequence[FileId]) -> None:
        with self._locked():
            for file_id in file_ids:
                self._entries.pop(file_id, None)

    def key(self, file_id: FileId) -> Key | None:
        with self._locked():
            attr = self._entries.get(file_id)
        return attr.key if attr else None

    def search(self, query: Query) -> Page:
        def cursor(attr: Attr) -> Cursor:
            return Cursor(getattr(attr, query.sort), attr.file_id)

        after = query.after
        if after is not None and isinstance(after.value, int) is not (query.sort == "size"):
            raise InvalidField("cursor", "The position does not belong to this order.")
        with self._locked():
            found = [attr for attr in self._entries.values() if all(_conditions(attr, query))]
        found.sort(key=cursor, reverse=query.descending)
        if after is not None:
            found = [a for a in found if (cursor(a) < after if query.descending else cursor(a) > after)]
        items = found[: query.limit]
        return Page(items=items, next=cursor(items[-1]) if items and len(found) > len(items) else None)

    def ids_in(self, directory: str) -> dict[str, FileId]:
        with self._locked():
            attrs = list(self._entries.values())
        return {a.storage_filename: a.file_id for a in attrs if a.storage_path == directory}

    def entries_in(self, directory: str) -> Iterator[tuple[FileId, Attr | None]]:
        with self._locked():
            attrs = list(self._entries.items())
        yield from ((file_id, attr) for file_id, attr in attrs if attr.storage_path == directory)

    def list_directories(self, since: str = "") -> Iterator[str]:
        with self._locked():
            found = {attr.storage_path for attr in self._entries.values()}
        yield from sorted(directory for directory in found if directory >= since)

    def totals(self) -> Totals:
        with self._locked():
            return Totals(len(self._entries), sum(attr.size for attr in self._entries.values()))

    def flush(self) -> None:
        self.check()

    def generation(self) -> str | None:
        with self._locked():
            return self._generation

    def set_generation(self, generation: str, *, if_match: str | None = None) -> None:
        with self._locked():
            if if_match not in (None, self._generation):
                raise Unavailable("The cache was replaced meanwhile.")
            self._generation = generation

    def clear(self) -> None:
        with self._locked():
            self._entries.clear()
            self._generation = None

    def check(self) -> None:
        with self._locked():
            pass

    def close(self) -> None:
        self._closed = True

    def _locked(self) -> threading.Lock:
        if self._closed:
            raise Unavailable("The cache is closed.")
        return self._lock


def _conditions(attr: Attr, query: Query) -> Iterator[bool]:
    texts = [fold(text) for text in (attr.original_filename, attr.description, *attr.tags)]
    yield all(any(fold(word) in text for text in texts) for word in query.words)
    yield query.filename in (None, attr.original_filename)
    yield query.uploaded_by in (None, attr.uploaded_by)
    yield query.content_type in (None, attr.content_type)
    yield query.sha256 in (None, attr.sha256)
    yield set(query.tags) <= set(attr.tags)
    yield query.min_size is None or attr.size >= query.min_size
    yield query.max_size is None or attr.size <= query.max_size
    yield query.uploaded_after is None or attr.uploaded_at > query.uploaded_after
    yield query.uploaded_before is None or attr.uploaded_at < query.uploaded_before
    yield query.updated_after is None or attr.updated_at > query.updated_after
    yield query.updated_before is None or attr.updated_at < query.updated_before
