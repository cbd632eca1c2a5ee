"""A box for each file: a directory that holds its data and its sidecar, and is moved into place as a whole.

<root>/boxes/2025,01,11,15,report.pdf/data      the file
<root>/boxes/2025,01,11,15,report.pdf/sidecar   or `tombstone`, once the file was deleted
<root>/staging/7~2025,01,11,15,report.pdf/      a box that is being packed
<root>/quarantine/, <root>/records/, <root>/lock
"""

import errno
import fcntl
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar, NoReturn

from pydantic import BaseModel

from artstore.errors import (
    ArtstoreError,
    ConfigError,
    Conflict,
    Damaged,
    NotFound,
    PreconditionFailed,
    StorageFull,
    Unavailable,
)
from artstore.ids import Key
from artstore.spi import PIECE, Backend, Capabilities, Context, Entry, Recoverable, Recovered, Span

DATA, SIDECAR, TOMBSTONE = "data", "sidecar", "tombstone"


@contextmanager
def our_words() -> Iterator[None]:
    """Errors of the disk become errors of artstore, here and nowhere else."""
    try:
        yield
    except OSError as e:
        raise translated(e) from e


def translated(error: OSError) -> ArtstoreError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound("There is no such file.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("The disk is full.")
    return Unavailable(f"The disk does not answer: {error.strerror}.")


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Beside it, then over it: at no moment is there half a file. Durable on return."""
    new = path.with_name(f"{path.name}~new")
    new.unlink(missing_ok=True)
    write(new, content)
    new.replace(path)
    sync(path.parent)


class BoxWriter:
    """A box that is being packed."""

    def __init__(self, box: Path, place: Path) -> None:
        self._box = box
        self._place = place
        box.mkdir()
        self._file = (box / DATA).open("xb")

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with our_words():
            self._file.write(piece)

    def publish(self, sidecar: bytes) -> None:
        try:
            with our_words():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                write(self._box / SIDECAR, sidecar)
                sync(self._box)
                self._move()
        except BaseException:
            self.abort()
            raise

    def _move(self) -> None:
        """The commit point. A directory cannot be renamed over one that holds something."""
        try:
            self._box.rename(self._place)
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict("There is a box of that name.") from None
            raise
        try:
            sync(self._place.parent)
        except OSError:  # a sync that failed is not tried again: the box goes back, and the upload fails
            self._place.rename(self._box)
            raise

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()
        shutil.rmtree(self._box, ignore_errors=True)


class BoxReader:
    """Data held open: an open file outlives its name."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.path: str | None = str(path)
        self.size = os.fstat(self._file.fileno()).st_size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with our_words():
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
        """Where the boxes stand; `files` below the home unless set."""

    def __init__(self, settings: Settings, context: Context) -> None:
        root = (settings.root or context.files).absolute()
        self._boxes, self._staging, self._quarantine, self._records = (
            root / name for name in ("boxes", "staging", "quarantine", "records")
        )
        self._numbers = itertools.count()
        self._packing: set[Path] = set()
        self._changing = threading.Lock()
        self._lock: BinaryIO | None = None
        if (
            context.read_only
        ):  # somebody looks, perhaps beside an element that serves: nothing is made or claimed
            return
        try:
            for directory in (self._boxes, self._staging, self._quarantine, self._records):
                directory.mkdir(parents=True, exist_ok=True)
            for directory in (root, *root.parents):
                sync(directory)
            self._lock = (root / "lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            self._give_up(root, "another process has it open", "Set server.workers = 1.")
        except OSError as e:
            self._give_up(root, str(e.strerror), "Make it a directory that this user may read and write.")

    def _give_up(self, root: Path, why: str, cure: str) -> NoReturn:
        raise ConfigError(
            f"The boxes in {root} cannot be used: {why}.", place="backend.boxes.root", cure=cure
        )

    def _box(self, key: Key) -> Path:
        for mark, escape in (("%", "%25"), (",", "%2C"), ("/", ",")):
            key = key.replace(mark, escape)
        return self._boxes / key

    def _key(self, name: str) -> str:
        for escape, mark in ((",", "/"), ("%2C", ","), ("%25", "%")):
            name = name.replace(escape, mark)
        return name

    def _boxes_and_contents(self) -> Iterator[tuple[str, set[str]]]:
        with our_words():
            boxes = list(self._boxes.iterdir())
        for box in boxes:
            with suppress(FileNotFoundError):
                yield self._key(box.name), {entry.name for entry in os.scandir(box)}

    # --- new files ---

    def create(self, key: Key) -> BoxWriter:
        place = self._box(key)
        with our_words():
            if place.exists() and any(place.iterdir()):
                raise Conflict(f"The key {key} is taken.")
            box = self._staging / f"{next(self._numbers)}~{place.name}"[:255]
            self._packing.add(box)
            return BoxWriter(box, place)

    # --- sidecars ---

    def read_sidecar(self, key: Key) -> bytes:
        with our_words(), (self._box(key) / SIDECAR).open("rb") as file:
            return file.read(4097)

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        with self._changing, our_words():
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            replace(self._box(key) / SIDECAR, sidecar)

    # --- deleting ---

    def delete(self, key: Key, *, if_match: bytes) -> None:
        box = self._box(key)
        with self._changing, our_words():
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            (box / SIDECAR).rename(box / TOMBSTONE)
            sync(box)

    def delete_data(self, key: Key) -> None:
        box = self._box(key)
        if not (box / SIDECAR).exists():
            self._remove(box, DATA)

    def purge(self, key: Key) -> None:
        self._remove(self._box(key), TOMBSTONE)

    def _remove(self, box: Path, name: str) -> None:
        with our_words():
            (box / name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else, or is gone
                box.rmdir()

    def list_tombstones(self) -> Iterator[Key]:
        yield from (key for key, held in self._boxes_and_contents() if TOMBSTONE in held)

    def quarantine(self, key: Key) -> None:
        box = self._box(key)
        with self._changing, our_words():
            if box.exists():
                box.rename(self._quarantine / f"{time.time_ns()}~{box.name}"[:255])
                sync(self._quarantine)
                sync(self._boxes)

    # --- reading ---

    def read(self, key: Key) -> BoxReader:
        with our_words():
            return BoxReader(self._box(key) / DATA)

    def list(self, directory: str) -> Iterator[Entry]:
        for key, held in self._boxes_and_contents():
            if key.rpartition("/")[0] == directory and held & {DATA, SIDECAR}:
                yield Entry(key=key, data=DATA in held, sidecar=SIDECAR in held)

    def age(self, key: Key) -> float:
        paths = [self._box(key) / name for name in (DATA, SIDECAR)]
        with our_words():
            return max(0.0, time.time() - max((p.stat().st_ctime for p in paths if p.exists()), default=0.0))

    def list_directories(self, since: str = "") -> Iterator[str]:
        found = {key.rpartition("/")[0] for key, held in self._boxes_and_contents() if held & {DATA, SIDECAR}}
        yield from sorted(directory for directory in found if directory >= since)

    # --- the rest ---

    def recover(self) -> Iterator[Recovered]:
        """Whoever packed these boxes is dead: there is one process at a time, and they are not ours."""
        with our_words():
            left = [box for box in self._staging.iterdir() if box not in self._packing]
        for box in left:
            shutil.rmtree(box, ignore_errors=True)
            yield Recovered(key=self._key(box.name.partition("~")[2]), outcome="undone")

    def resolve(self, key: Key) -> bool:
        """A box is in its place or it is not: nothing is ever half-way."""
        return (self._box(key) / SIDECAR).exists()

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        """There is one process at a time, so what is being packed is being packed here."""
        with our_words():
            yield from [self._key(box.name.partition("~")[2]) for box in self._staging.iterdir()]

    def is_sole_writer(self) -> bool:
        return True

    def read_document(self, name: str) -> bytes | None:
        with our_words():
            path = self._records / name
            return path.read_bytes() if path.exists() else None

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        with self._changing, our_words():
            if if_absent and (self._records / name).exists():
                raise Conflict(f"There is a {name}.")
            if if_match is not None and self.read_document(name) != if_match:
                raise PreconditionFailed(f"{name} was changed meanwhile.")
            replace(self._records / name, document)

    def free_bytes(self) -> int | None:
        with our_words():
            total, _, free = shutil.disk_usage(self._boxes)
        return free

    def check(self, *, writing: bool) -> None:
        with our_words():
            os.stat(self._boxes)
            if writing and not os.access(self._boxes, os.W_OK):
                raise Unavailable("The boxes are read-only.")

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
