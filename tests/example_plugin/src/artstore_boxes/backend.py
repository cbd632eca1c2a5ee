"""A box for each file: a directory with its data and its sidecar, moved into place as a whole.

<root>/boxes/2025,01,11,15,report.pdf/data      the data
<root>/boxes/2025,01,11,15,report.pdf/sidecar   or `tombstone`, after the file was deleted
<root>/staging/7~2025,01,11,15,report.pdf/      the box of an upload in progress
<root>/quarantine/, <root>/documents/, <root>/lock
"""

import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from artstore.errors import ConfigError, Conflict, Damaged, NotFound, PreconditionFailed, startup_error
from artstore.ids import Key
from artstore.posix import OwnedFile, fsync_directory, translate_errors
from artstore.spi import (
    PIECE,
    Backend,
    Capabilities,
    Context,
    Entry,
    Reader,
    Recoverable,
    Recovered,
    Span,
    Writer,
)

DATA, SIDECAR, TOMBSTONE = "data", "sidecar", "tombstone"
ROOT = "backend.boxes.root"


@contextmanager
def on_disk() -> Iterator[None]:
    """Turn errors of the disk into errors of artstore."""
    with translate_errors("The disk failed"):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as e:
            raise NotFound("There is no such file.") from e


def write(path: Path, content: bytes) -> None:
    """Write a new file; its content is durable on return, its name is not."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Replace a file whole; durable on return."""
    new = path.with_name(f"{path.name}~new")
    new.unlink(missing_ok=True)
    write(new, content)
    new.replace(path)
    fsync_directory(path.parent)


class BoxWriter(Writer):
    """The box of an upload in progress."""

    def __init__(self, box: Path, place: Path) -> None:
        self._box = box
        self._place = place
        box.mkdir()
        self._file = (box / DATA).open("xb")

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with on_disk():
            self._file.write(piece)

    def publish(self, sidecar: bytes) -> None:
        try:
            with on_disk():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                write(self._box / SIDECAR, sidecar)
                fsync_directory(self._box)
                self._move()
        except BaseException:
            self.abort()
            raise

    def _move(self) -> None:
        """Move the box into its place: the commit point. Fails when a box of that name holds anything."""
        try:
            self._box.rename(self._place)
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict("There is a box of that name.") from None
            raise
        try:
            fsync_directory(self._place.parent)
        except OSError:
            self._place.rename(self._box)
            raise

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()
        shutil.rmtree(self._box, ignore_errors=True)


class BoxReader(Reader):
    """Data held open: an open file stays readable when its name is removed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.path: str | None = str(path)
        self.size = os.fstat(self._file.fileno()).st_size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with on_disk():
                piece = os.pread(self._file.fileno(), min(left, PIECE), offset)
            if not piece:
                raise Damaged("The data ends before it should.")
            yield piece
            offset += len(piece)
            left -= len(piece)

    def close(self) -> None:
        self._file.close()


class BoxesBackend(Backend, Recoverable):
    """Boxes on a local disk, for one process at a time."""

    API: ClassVar[int] = 1
    capabilities = Capabilities(durable=True, atomic_sidecar=True, shared=False)

    class Settings(BaseModel, extra="forbid"):
        """`[backend.boxes]`"""

        root: Path | None = None
        """The directory of the boxes; by default `files` below the home."""

    def __init__(self, settings: Settings, context: Context) -> None:
        root = (settings.root or context.files).absolute()
        directories = [root / name for name in ("boxes", "staging", "quarantine", "documents")]
        self._boxes, self._staging, self._quarantine, self._documents = directories
        self._numbers = itertools.count()
        self._uploads: set[Path] = set()
        self._changing = threading.Lock()
        self._lock: OwnedFile | None = None
        if context.read_only:
            return
        try:
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True)
            for directory in (root, *root.parents):
                fsync_directory(directory)
            self._lock = OwnedFile.acquire(root / "lock")
        except OSError as e:
            cure = "Make it a directory that this user may read and write."
            raise startup_error(e, f"The boxes in {root} cannot be used", place=ROOT, cure=cure) from e
        if self._lock is None:
            cure = "Set server.workers = 1."
            raise ConfigError(f"Another process uses the boxes in {root}.", place=ROOT, cure=cure)

    def _box(self, key: Key) -> Path:
        name: str = key
        for char, escape in (("%", "%25"), (",", "%2C"), ("/", ",")):
            name = name.replace(char, escape)
        return self._boxes / name

    def _key(self, name: str) -> Key:
        for escape, char in ((",", "/"), ("%2C", ","), ("%25", "%")):
            name = name.replace(escape, char)
        return Key(name)

    def _contents(self) -> Iterator[tuple[Key, set[str]]]:
        """Yield the key of each box, and what the box holds."""
        with on_disk():
            boxes = [*self._boxes.iterdir()]
        for box in boxes:
            with suppress(FileNotFoundError):
                yield self._key(box.name), {entry.name for entry in os.scandir(box)}

    # --- the store ---

    def create(self, key: Key) -> BoxWriter:
        place = self._box(key)
        with on_disk():
            if place.exists() and any(place.iterdir()):
                raise Conflict(f"The key {key} is taken.")
            box = self._staging / f"{next(self._numbers)}~{place.name}"[:255]
            self._uploads.add(box)
            return BoxWriter(box, place)

    def read(self, key: Key) -> BoxReader:
        with on_disk():
            return BoxReader(self._box(key) / DATA)

    def read_sidecar(self, key: Key) -> bytes:
        with on_disk(), (self._box(key) / SIDECAR).open("rb") as file:
            return file.read(4097)

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        with self._changing, on_disk():
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            replace(self._box(key) / SIDECAR, sidecar)

    def delete(self, key: Key, *, if_match: bytes) -> None:
        box = self._box(key)
        with self._changing, on_disk():
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            (box / SIDECAR).rename(box / TOMBSTONE)
            fsync_directory(box)

    def list(self, directory: str) -> Iterator[Entry]:
        for key, held in self._contents():
            if key.rpartition("/")[0] == directory and held & {DATA, SIDECAR}:
                yield Entry(key=key, data=DATA in held, sidecar=SIDECAR in held)

    def list_directories(self, since: str = "") -> Iterator[str]:
        found = {key.rpartition("/")[0] for key, held in self._contents() if held & {DATA, SIDECAR}}
        yield from sorted(directory for directory in found if directory >= since)

    def read_document(self, name: str) -> bytes | None:
        with on_disk():
            path = self._documents / name
            return path.read_bytes() if path.exists() else None

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        with self._changing, on_disk():
            old = self.read_document(name)
            if if_absent and old is not None:
                raise Conflict(f"There is a {name}.")
            if if_match is not None and old != if_match:
                raise PreconditionFailed(f"{name} was changed meanwhile.")
            replace(self._documents / name, document)

    def free_bytes(self) -> int | None:
        with on_disk():
            return shutil.disk_usage(self._boxes).free

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    # --- recovery ---

    def delete_data(self, key: Key) -> None:
        box = self._box(key)
        if not (box / SIDECAR).exists():
            self._remove(box, DATA)

    def list_tombstones(self) -> Iterator[Key]:
        yield from (key for key, held in self._contents() if TOMBSTONE in held)

    def purge(self, key: Key) -> None:
        self._remove(self._box(key), TOMBSTONE)

    def _remove(self, box: Path, name: str) -> None:
        with on_disk():
            (box / name).unlink(missing_ok=True)
            with suppress(OSError):  # the box holds something else, or is gone
                box.rmdir()

    def quarantine(self, key: Key) -> None:
        box = self._box(key)
        with self._changing, on_disk():
            if box.exists():
                box.rename(self._quarantine / f"{time.time_ns()}~{box.name}"[:255])
                fsync_directory(self._quarantine)
                fsync_directory(self._boxes)

    def age(self, key: Key) -> float:
        with on_disk():
            parts = [entry for entry in os.scandir(self._box(key)) if entry.name in (DATA, SIDECAR)]
            if not parts:
                raise NotFound(f"There is no {key}.")
            return max(0.0, time.time() - max(part.stat().st_ctime for part in parts))

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with on_disk():
            yield from [self._key(box.name.partition("~")[2]) for box in self._staging.iterdir()]

    def recover(self) -> Iterator[Recovered]:
        with on_disk():
            left = [box for box in self._staging.iterdir() if box not in self._uploads]
        for box in left:
            shutil.rmtree(box, ignore_errors=True)
            yield Recovered(key=self._key(box.name.partition("~")[2]), outcome="undone")

    def resolve(self, key: Key) -> bool:
        return (self._box(key) / SIDECAR).exists()

    def is_sole_writer(self) -> bool:
        return True
