"""The survey: tree, sidecars and cache held against each other, one directory at a time. It changes nothing.

Others may write meanwhile. So what looks wrong is looked at again a moment later, and what a process has under way
is nobody's damage: an upload shows its data before its sidecar, a deletion takes the sidecar before the data, and a
row follows its sidecar.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from artstore.attr import Attr, decode, sidecar_key
from artstore.errors import Damaged, NotFound, Unavailable
from artstore.ids import FileId, Key
from artstore.spi import Cache, Entry, Log, Naming, RecoverableBackend, Span

PAUSE = 0.5
"""Seconds between the two looks at what looks wrong."""
SUSPECTS = 10_000
"""As many wait for their second look together."""


class Kind(StrEnum):
    OK = "ok"
    DAMAGED = "damaged"
    ORPHAN_DATA = "orphan data"
    ORPHAN_SIDECAR = "orphan sidecar"
    MISSING = "missing"
    FOREIGN = "foreign"
    STALE = "stale cache"


SOUND = frozenset({Kind.OK, Kind.FOREIGN})
"""What an element may be full of and yet be well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one name in the store, or one row without a name, turned out to be.

    `attr`: what a good sidecar says. `rows`: the ids of rows that lead here and should not, or not like this.
    `ahead`: the file's own row claims a newer revision than its sidecar has. `sure`: False when it only could not
    be read.
    """

    kind: Kind
    key: Key
    detail: str = ""
    attr: Attr | None = None
    rows: tuple[str, ...] = ()
    ahead: bool = False
    sure: bool = True


@dataclass(slots=True)
class Row:
    """A row of the cache, as little of it as comparing takes; without a mark it contradicts itself."""

    file_id: FileId
    mark: bytes = b""
    revision: int = 1 << 53


def _pulse() -> None:
    """Called for each file and each MiB: whoever wants to draw or to stop hands in another."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """One walk. `since`: the directory to begin at. `digests`: read all data. `data`: look at it at all.

    `twice`: give what looks wrong a second look. `tolerant`: where the cache does not answer, go on without it.
    `compared` then says why; it is "compared" otherwise.
    """

    backend: RecoverableBackend
    naming: Naming
    cache: Cache | None
    log: Log | None = None
    """Asked for what is under way where the backend cannot tell of it all."""
    since: str = ""
    data: bool = True
    digests: bool = False
    twice: bool = True
    pulse: Callable[[], None] = _pulse
    tolerant: bool = False
    compared: str = "compared"
    unreachable: bool = False
    files: int = 0
    """Names seen so far."""
    size: int = 0
    """Bytes of data read so far."""
    directory: str = ""
    """Where the walk is; everything before it was looked at."""
    _suspects: dict[str, set[str]] = field(default_factory=dict)
    _waiting: int = 0

    def total(self) -> int | None:
        """How many files there are, as the cache has it; None when nobody knows."""
        if self.cache is None or self.since:
            return None
        try:
            return self.cache.totals().files
        except Unavailable as e:
            self._lose(e)
            return None

    def findings(self) -> Iterator[Finding]:
        """Everything there is, what is well included. Raises `Unavailable` when the store does not answer."""
        for entry in self.backend.list(""):
            yield Finding(kind=Kind.FOREIGN, key=entry.key)
        seen: set[str] = set()
        for directory in self.backend.list_directories(self.since):
            seen.add(directory)
            self.directory = directory
            yield from self._first(directory)
        for directory in self._with_rows():
            if directory not in seen and not self._holds(directory):
                yield from self._first(directory)
        yield from self._again()

    def _with_rows(self) -> Iterator[str]:
        if self.cache is not None:
            try:
                yield from self.cache.list_directories(self.since)
            except Unavailable as e:
                self._lose(e)

    def _holds(self, directory: str) -> bool:
        try:
            return any(True for _ in self.backend.list(directory))
        except Damaged:  # a link where the directory was
            return False

    def _first(self, directory: str) -> Iterator[Finding]:
        for finding in self._compare(directory, None):
            if finding.kind in SOUND or not self.twice:
                yield finding
            else:
                self._suspects.setdefault(directory, set()).add(finding.key)
                self._waiting += 1
        if self._waiting >= SUSPECTS:
            yield from self._again()

    def _again(self) -> Iterator[Finding]:
        if not self._suspects:
            return
        time.sleep(PAUSE)
        suspects, self._suspects, self._waiting = self._suspects, {}, 0
        # Before the second look: what is published between the two was under way.
        under_way: set[str | None] = {*self.backend.in_progress(), *self.backend.list_tombstones()}
        if self.log is not None and not self.backend.capabilities.lists_uploads:
            under_way |= {t.key for t in self.log.transactions(status="pending", limit=SUSPECTS)}
        for directory, keys in suspects.items():
            for finding in self._compare(directory, keys):
                halves = finding.kind in (Kind.ORPHAN_DATA, Kind.ORPHAN_SIDECAR)
                # A deletion may have begun after that.
                if not (
                    halves and (finding.key in under_way or finding.key in self.backend.list_tombstones())
                ):
                    yield finding

    def _compare(self, directory: str, only: Collection[str] | None) -> Iterator[Finding]:
        """All of one directory, or those keys alone."""
        rows = self._rows(directory)
        try:
            for entry in self.backend.list(directory):
                leading = rows.pop(entry.key, [])
                if only is None or entry.key in only:
                    self.pulse()
                    self.files += only is None
                    finding = self._look(entry, leading)
                    if finding is not None:
                        yield finding
        except Damaged:  # a link where the directory was: its files are out of reach
            pass
        for key, leading in rows.items():
            if only is None or key in only:
                ids = tuple(row.file_id for row in leading)
                yield Finding(
                    kind=Kind.MISSING, key=key, rows=ids, detail="There is a row in the cache and no file."
                )

    def _rows(self, directory: str) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        if self.cache is None:
            return found
        try:
            for file_id, attr in self.cache.entries_in(directory):
                key = attr.key if attr is not None else self.cache.key(file_id)
                row = Row(file_id) if attr is None else Row(file_id, _mark(attr), attr.revision)
                if key is not None:
                    found.setdefault(key, []).append(row)
        except Unavailable as e:
            self._lose(e)
            return {}
        return found

    def _lose(self, error: Unavailable) -> None:
        if not self.tolerant:
            raise error
        self.cache, self.compared, self.unreachable = None, error.detail.removesuffix("."), True

    def _look(self, entry: Entry, rows: list[Row]) -> Finding | None:
        """None when it went away under our eyes."""
        key, ids = entry.key, tuple(row.file_id for row in rows)
        ours = self.naming.parse(key.rpartition("/")[2]) is not None
        if not (entry.data and entry.sidecar):
            if not ours:
                return Finding(kind=Kind.FOREIGN, key=key if entry.data else sidecar_key(key), rows=ids)
            if entry.data:
                return Finding(kind=Kind.ORPHAN_DATA, key=key, rows=ids, detail="It has no sidecar.")
            return Finding(kind=Kind.ORPHAN_SIDECAR, key=key, rows=ids, detail="It has no data.")
        try:
            attr = decode(self.backend.read_sidecar(key), key)
        except NotFound:
            return None
        except Damaged as e:
            return Finding(kind=Kind.DAMAGED if ours else Kind.FOREIGN, key=key, rows=ids, detail=e.detail)
        except Unavailable as e:
            return self._unread(key, ids, e)
        try:
            self._check(attr, ours)
        except NotFound:
            return Finding(kind=Kind.ORPHAN_SIDECAR, key=key, rows=ids, detail="It has no data.")
        except Damaged as e:
            return Finding(kind=Kind.DAMAGED, key=key, rows=ids, detail=e.detail)
        except Unavailable as e:
            return self._unread(key, ids, e)
        return self._against(attr, rows)

    def _unread(self, key: Key, ids: tuple[str, ...], error: Unavailable) -> Finding:
        self.backend.check(writing=False)  # when nothing can be read at all, no file is to blame
        return Finding(kind=Kind.DAMAGED, key=key, rows=ids, detail=error.detail, sure=False)

    def _check(self, attr: Attr, ours: bool) -> None:
        """Hold the data against its attr. Raises `Damaged`, `NotFound`, `Unavailable`."""
        if ours and not self.naming.carries(attr.storage_filename, attr.file_id):
            raise Damaged(
                f"The sidecar of {attr.key} has the id {attr.file_id}, which its name does not carry."
            )
        if not self.data:
            return
        reader = self.backend.read(attr.key)
        try:
            if reader.size != attr.size:
                raise Damaged(
                    f"The data of {attr.key} has {reader.size} bytes; its sidecar says {attr.size}."
                )
            if not self.digests:
                return
            digest = hashlib.sha256()
            for piece in reader.pieces(Span(0, reader.size)):
                digest.update(piece)
                self.size += len(piece)
                self.pulse()
        finally:
            reader.close()
        if digest.hexdigest() != attr.sha256:
            raise Damaged(f"The data of {attr.key} has another sha-256 than its sidecar says.")

    def _against(self, attr: Attr, rows: list[Row]) -> Finding:
        """Hold the rows that lead to a good file against it."""
        if self.cache is None:
            return Finding(kind=Kind.OK, key=attr.key, attr=attr)
        mark = _mark(attr)
        wrong = tuple(row.file_id for row in rows if (row.file_id, row.mark) != (attr.file_id, mark))
        mine = any(row.file_id == attr.file_id for row in rows)
        if mine and not wrong:
            return Finding(kind=Kind.OK, key=attr.key, attr=attr)
        if not mine and (twin := self._twin(attr)) is not None:
            detail = f"The sidecars of {attr.key} and of {twin} have one id."
            return Finding(kind=Kind.DAMAGED, key=attr.key, rows=wrong, detail=detail)
        ahead = any(row.file_id == attr.file_id and row.revision > attr.revision for row in rows)
        detail = "Its row differs from its sidecar." if rows else "It has no row."
        return Finding(kind=Kind.STALE, key=attr.key, attr=attr, rows=wrong, ahead=ahead, detail=detail)

    def _twin(self, attr: Attr) -> str | None:
        """Another key whose sidecar has the same id."""
        try:
            other = self.cache.key(attr.file_id) if self.cache is not None else None
            if other is not None and other != attr.key:
                return (
                    other if decode(self.backend.read_sidecar(other), other).file_id == attr.file_id else None
                )
        except (NotFound, Damaged):
            pass
        except Unavailable as e:
            self._lose(e)
        return None


def _mark(attr: Attr) -> bytes:
    """The same for the same attr, whatever the order of its keys."""
    text = json.dumps(attr.model_dump(mode="json"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
