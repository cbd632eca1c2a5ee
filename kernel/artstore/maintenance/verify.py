"""Verification: compare the tree, the sidecars and the index, one directory at a time. It changes nothing.

Other threads and processes may write meanwhile, and what they have in progress is no damage: an upload shows its data
before its sidecar, a deletion removes the sidecar before the data, and an index entry follows its sidecar. So whatever
looks wrong is checked a second time, a moment later.

An index entry is compared with a sidecar that was read at another time. The second check reads, in this order: the
sidecar, the changes in progress, the index entry, the sidecar. The entry is wrong if it differs from both sidecars,
these are equal, and no change of the file is in progress: the change that wrote that sidecar has ended then, and it
wrote its entry before it ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from artstore.attr import Attr, decode, sidecar_key
from artstore.errors import Damaged, NotFound, Unavailable
from artstore.ids import FileId, Key
from artstore.spi import Cache, Entry, Log, Naming, RecoverableBackend, Span

PAUSE = 0.5
"""Seconds between the first and the second check of what looks wrong."""
RECHECK_BATCH = 10_000
"""Names that are gathered at most before they are checked a second time."""


class Kind(StrEnum):
    """What a name in the store can turn out to be."""

    OK = "ok"
    DAMAGED = "damaged"
    ORPHAN_DATA = "orphan data"
    ORPHAN_SIDECAR = "orphan sidecar"
    MISSING = "missing"
    FOREIGN = "foreign"
    STALE = "stale cache"


HEALTHY = frozenset({Kind.OK, Kind.FOREIGN})
"""The kinds that no element needs to repair."""

HALVES = frozenset({Kind.ORPHAN_DATA, Kind.ORPHAN_SIDECAR})
"""The kinds of a file of which a half is missing, as it is for a moment in an upload and in a deletion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one name in the store, or one index entry without a name, turned out to be."""

    kind: Kind
    key: Key
    detail: str = ""
    attr: Attr | None = None
    """The content of a good sidecar."""
    entry_ids: tuple[FileId, ...] = ()
    """Ids of index entries that lead to this key and are wrong."""
    ahead: bool = False
    """Whether the index entry of the file has a newer revision than its sidecar."""
    sure: bool = True
    """False when the file could not be read: it may be whole."""


@dataclass(frozen=True, slots=True)
class _IndexEntry:
    """The part of an index entry that is compared. An entry that contradicts itself has no fingerprint."""

    file_id: FileId
    fingerprint: bytes = b""
    revision: int = 1 << 53


class Survey:
    """One walk over the store. It is used once, by one thread."""

    def __init__(
        self,
        *,
        backend: RecoverableBackend,
        naming: Naming,
        cache: Cache | None,
        log: Log | None = None,
        since: str = "",
        data: bool = True,
        digests: bool = False,
        recheck: bool = True,
        tolerant: bool = False,
        cache_state: str = "compared",
        unreachable: bool = False,
        on_progress: Callable[[Survey], None] = lambda survey: None,
    ) -> None:
        """`since`: the first directory. `data`: compare sizes with the data. `digests`: read all data as well.

        `log` names the changes in progress. `recheck`: check a second time
        what looks wrong. `tolerant`: go on without the cache when it does not answer. `on_progress` is called for each
        name and each piece of data; it may raise, to stop the walk.
        """
        self.backend = backend
        self.since = since
        self.files = 0
        """Names checked so far."""
        self.size = 0
        """Bytes of data read so far."""
        self.directory = ""
        """The directory that is being checked; all before it are finished."""
        self.cache_state = cache_state
        """For the report: "compared", or the reason why the cache is not compared."""
        self.unreachable = unreachable
        """Whether that reason is a cache that does not answer."""
        self._naming = naming
        self._cache = cache
        self._log = log
        self._data = data
        self._digests = digests
        self._recheck = recheck
        self._tolerant = tolerant
        self._on_progress = on_progress
        self._suspects: dict[str, set[Key]] = {}
        self._suspect_count = 0

    def total(self) -> int | None:
        """Return the number of files in the cache, or None when it is unknown. Raises `Unavailable`."""
        if self._cache is None or self.since:
            return None
        try:
            return self._cache.totals().files
        except Unavailable as e:
            self._drop_cache(e)
            return None

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each name, also a healthy one. Raises `Unavailable` when the store does not answer."""
        for entry in self.backend.list(""):
            yield Finding(kind=Kind.FOREIGN, key=entry.key)
        seen: set[str] = set()
        for directory in self.backend.list_directories(self.since):
            seen.add(directory)
            self.directory = directory
            yield from self._check_directory(directory)
        for directory in self._indexed_directories():
            if directory not in seen and not self._has_files(directory):
                yield from self._check_directory(directory)
        yield from self._check_again()

    def _indexed_directories(self) -> Iterator[str]:
        if self._cache is not None:
            try:
                yield from self._cache.list_directories(self.since)
            except Unavailable as e:
                self._drop_cache(e)

    def _has_files(self, directory: str) -> bool:
        try:
            return any(True for _ in self.backend.list(directory))
        except Damaged:  # a link stands where the directory was
            return False

    def _check_directory(self, directory: str) -> Iterator[Finding]:
        for finding in self._compare(directory, None):
            if finding.kind in HEALTHY or not self._recheck:
                yield finding
            else:
                self._suspects.setdefault(directory, set()).add(finding.key)
                self._suspect_count += 1
        if self._suspect_count >= RECHECK_BATCH:
            yield from self._check_again()

    def _check_again(self) -> Iterator[Finding]:
        if not self._suspects:
            return
        time.sleep(PAUSE)
        suspects, self._suspects, self._suspect_count = self._suspects, {}, 0
        before = {key: self._read_fingerprint(key) for keys in suspects.values() for key in keys}
        # Asked before the second check: an upload that is published between the two was still in progress here.
        unfinished: set[str | None] = {*self.backend.in_progress(), *self.backend.list_tombstones()}
        pending = self._pending_keys()
        if not self.backend.capabilities.lists_uploads:
            unfinished |= pending
        for directory, keys in suspects.items():
            findings = list(self._compare(directory, keys))
            if any(finding.kind in HALVES for finding in findings):
                # A deletion may have begun since `unfinished` was read, so the tombstones are read again.
                unfinished.update(self.backend.list_tombstones())
            for finding in findings:
                if finding.kind in HALVES:
                    certain = finding.key not in unfinished
                elif finding.kind is Kind.MISSING or finding.attr is not None:  # an index entry is compared
                    same = _fingerprint(finding.attr) == before[finding.key]
                    certain = same and finding.key not in unfinished | pending
                else:
                    certain = True
                if certain:
                    yield finding

    def _pending_keys(self) -> set[str | None]:
        if self._log is None:
            return set()
        return {t.key for t in self._log.transactions(status="pending", limit=RECHECK_BATCH)}

    def _read_fingerprint(self, key: Key) -> bytes:
        """Return the fingerprint of a sidecar; nothing when there is no good one that can be read."""
        try:
            return _fingerprint(decode(self.backend.read_sidecar(key), key))
        except (NotFound, Damaged, Unavailable):
            return b""

    def _compare(self, directory: str, only: Collection[Key] | None) -> Iterator[Finding]:
        """Yield the findings of one directory, or of the keys `only` in it."""
        indexed = self._index_entries(directory)
        try:
            for entry in self.backend.list(directory):
                entries = indexed.pop(entry.key, [])
                if only is not None and entry.key not in only:
                    continue
                self._on_progress(self)
                if only is None:  # the second check does not count a name again
                    self.files += 1
                finding = self._examine(entry, entries)
                if finding is not None:
                    yield finding
        except Damaged:  # a link stands where the directory was: its files are out of reach
            pass
        except Unavailable:
            if self._naming.is_directory(directory):
                raise
            yield Finding(kind=Kind.FOREIGN, key=Key(directory), detail="It cannot be read.")
        for key, entries in indexed.items():
            if only is None or key in only:
                ids, detail = _ids(entries), "There is an index entry and no file."
                yield Finding(kind=Kind.MISSING, key=key, entry_ids=ids, detail=detail)

    def _index_entries(self, directory: str) -> dict[Key, list[_IndexEntry]]:
        """Return the index entries of one directory by key; none when the cache was dropped."""
        found: dict[Key, list[_IndexEntry]] = {}
        if self._cache is None:
            return found
        try:
            for file_id, attr in self._cache.entries_in(directory):
                key = attr.key if attr is not None else self._cache.key(file_id)
                if key is not None:
                    found.setdefault(key, []).append(_index_entry(file_id, attr))
        except Unavailable as e:
            self._drop_cache(e)
            return {}
        return found

    def _drop_cache(self, error: Unavailable) -> None:
        """Go on without the cache from here; where that is not allowed, raise `error`."""
        if not self._tolerant:
            raise error
        self._cache, self.cache_state, self.unreachable = None, error.detail.removesuffix("."), True

    def _examine(self, entry: Entry, entries: list[_IndexEntry]) -> Finding | None:
        """Return what one name turns out to be, or None when it was deleted meanwhile."""
        key, ids = entry.key, _ids(entries)
        ours = self._naming.parse(key.rpartition("/")[2]) is not None
        if not (entry.data and entry.sidecar):
            if not ours:
                name = key if entry.data else Key(sidecar_key(key))
                return Finding(kind=Kind.FOREIGN, key=name, entry_ids=ids)
            if entry.data:
                return Finding(kind=Kind.ORPHAN_DATA, key=key, entry_ids=ids, detail="It has no sidecar.")
            return Finding(kind=Kind.ORPHAN_SIDECAR, key=key, entry_ids=ids, detail="It has no data.")
        try:
            attr = decode(self.backend.read_sidecar(key), key)
        except NotFound:
            return None
        except Damaged as e:
            return Finding(
                kind=Kind.DAMAGED if ours else Kind.FOREIGN, key=key, entry_ids=ids, detail=e.detail
            )
        except Unavailable as e:
            return self._unreadable(key, ids, e)
        try:
            self._check_data(attr, ours)
        except NotFound:
            return Finding(kind=Kind.ORPHAN_SIDECAR, key=key, entry_ids=ids, detail="It has no data.")
        except Damaged as e:
            return Finding(kind=Kind.DAMAGED, key=key, entry_ids=ids, detail=e.detail)
        except Unavailable as e:
            return self._unreadable(key, ids, e)
        return self._compare_entries(attr, entries)

    def _unreadable(self, key: Key, ids: tuple[FileId, ...], error: Unavailable) -> Finding:
        self.backend.check(
            writing=False
        )  # raises when nothing can be read at all: then no single file is damaged
        return Finding(kind=Kind.DAMAGED, key=key, entry_ids=ids, detail=error.detail, sure=False)

    def _check_data(self, attr: Attr, ours: bool) -> None:
        """Compare the name and the data with `attr`. Raises `Damaged`, `NotFound`, `Unavailable`."""
        if ours and not self._naming.carries(attr.storage_filename, attr.file_id):
            raise Damaged(
                f"The sidecar of {attr.key} has the id {attr.file_id}, which its name does not carry."
            )
        if not self._data:
            return
        reader = self.backend.read(attr.key)
        try:
            if reader.size != attr.size:
                raise Damaged(
                    f"The data of {attr.key} has {reader.size} bytes; its sidecar says {attr.size}."
                )
            if not self._digests:
                return
            digest = hashlib.sha256()
            for piece in reader.pieces(Span(0, reader.size)):
                digest.update(piece)
                self.size += len(piece)
                self._on_progress(self)
        finally:
            reader.close()
        if digest.hexdigest() != attr.sha256:
            raise Damaged(f"The data of {attr.key} has another sha-256 than its sidecar says.")

    def _compare_entries(self, attr: Attr, entries: list[_IndexEntry]) -> Finding:
        """Compare the index entries that lead to a good file with its sidecar."""
        if self._cache is None:
            return Finding(kind=Kind.OK, key=attr.key, attr=attr)
        expected = _index_entry(attr.file_id, attr)
        wrong = _ids([entry for entry in entries if entry != expected])
        own = next((entry for entry in entries if entry.file_id == attr.file_id), None)
        if own is not None and not wrong:
            return Finding(kind=Kind.OK, key=attr.key, attr=attr)
        if own is None and (other := self._duplicate_id(attr)) is not None:
            detail = f"The sidecars of {attr.key} and of {other} have one id."
            return Finding(kind=Kind.DAMAGED, key=attr.key, attr=attr, entry_ids=wrong, detail=detail)
        ahead = own is not None and own.revision > attr.revision
        detail = "Its index entry differs from its sidecar." if entries else "It has no index entry."
        return Finding(kind=Kind.STALE, key=attr.key, attr=attr, entry_ids=wrong, ahead=ahead, detail=detail)

    def _duplicate_id(self, attr: Attr) -> Key | None:
        """Return another key whose sidecar has the id of `attr`."""
        try:
            other = None if self._cache is None else self._cache.key(attr.file_id)
            if other is None or other == attr.key:
                return None
            if decode(self.backend.read_sidecar(other), other).file_id == attr.file_id:
                return other
        except (NotFound, Damaged):
            pass
        except Unavailable as e:
            self._drop_cache(e)
        return None


def _ids(entries: list[_IndexEntry]) -> tuple[FileId, ...]:
    return tuple(entry.file_id for entry in entries)


def _index_entry(file_id: FileId, attr: Attr | None) -> _IndexEntry:
    return _IndexEntry(file_id) if attr is None else _IndexEntry(file_id, _fingerprint(attr), attr.revision)


def _fingerprint(attr: Attr | None) -> bytes:
    if attr is None:
        return b""
    # Sorted: attributes that are equal have one fingerprint, in whatever order their fields were written.
    text = json.dumps(attr.model_dump(mode="json"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
