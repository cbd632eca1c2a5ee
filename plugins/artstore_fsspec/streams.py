"""Files of an fsspec file system held open, each with a connection of its own where threads cannot share one."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from artstore.errors import DISK_FULL_ERRNOS, ArtstoreError, Damaged, OutcomeUnknown, StorageFull, Unavailable
from artstore.ids import Key
from artstore.spi import PIECE, Span
from artstore_fsspec.connections import Connections

if TYPE_CHECKING:
    from artstore_fsspec.files import FsspecObjects

SENT, AHEAD = 8 * PIECE, 4 * PIECE
"""Bytes that stores of objects keep in memory to be sent, and read ahead; left alone some take 50 MiB."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Whatever a file system raises, as one of our errors."""
    try:
        yield
    except ArtstoreError:
        raise
    except OSError as e:
        if e.errno in DISK_FULL_ERRNOS:
            raise StorageFull(f"There is no space left for {what}.") from e
        raise Unavailable(f"The file system failed at {what}: {e.strerror or type(e).__name__}.") from e
    except Exception as e:  # each library behind fsspec has errors of its own
        raise Unavailable(f"The file system failed at {what}: {type(e).__name__}.") from e


class _Stream:
    """A file held open, and the connection it is held by."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._fs: Any = connections.take()
        self._file: Any = None

    @contextmanager
    def _used(self, what: str) -> Iterator[None]:
        try:
            with translated(what):
                yield
        except BaseException:
            self._end(sound=False)
            raise

    def _end(self, *, sound: bool) -> None:
        fs, self._fs = self._fs, None
        if fs is not None and sound:
            self._connections.give(fs)
        elif fs is not None:
            self._connections.drop()


class FsspecUpload(_Stream):
    """A large file on its way: in the staging area, or where nobody sees it before it is closed."""

    def __init__(
        self, objects: FsspecObjects, connections: Connections, name: str, staged: str | None
    ) -> None:
        super().__init__(connections)
        self._objects = objects
        self._name = name
        self._staged = staged
        with self._used("this file"):
            if staged is None:
                self._file = self._fs.open(objects.path(name), "wb", block_size=SENT)
                self._shown(False)
            else:
                self._file = self._fs.open(objects.path(staged), "wb")

    def _shown(self, shown: bool) -> None:
        """Whether what was written shows when the file is closed, which one of fsspec's does when forgotten too."""
        if self._staged is None:
            self._file.forced = not shown

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with self._used("this file"):
            self._shown(True)  # else it takes nothing
            self._file.write(bytes(piece))
            self._shown(False)

    def finish(self) -> bool:
        if self._staged is None:
            return self._appear()
        with self._used("this file"):
            self._close()
        with translated(self._name), self._objects.held(self._name):
            if self._objects.look(self._name) is not None:
                return False
            self._objects.move(self._staged, self._name)
            self._staged = None
        return True

    def _appear(self) -> bool:
        with translated(self._name), self._objects.held(self._name):
            if self._objects.look(self._name) is not None:
                return False
            try:
                with self._used("this file"):
                    self._shown(True)
                    self._close()
            except Unavailable as e:
                raise OutcomeUnknown(e.detail) from e
        return True

    def _close(self) -> None:
        file, self._file = self._file, None
        file.close()
        self._end(sound=True)

    def abort(self) -> None:
        try:
            with self._used("this file"):
                if self._file is not None:
                    if self._staged is None:
                        self._file.discard()
                    self._close()
            if self._staged is not None:
                self._objects.delete(self._staged)
        except ArtstoreError:
            pass  # it goes when it is older than the grace


class FsspecReader(_Stream):
    """A file to be read."""

    path: str | None = None

    def __init__(self, connections: Connections, path: str, size: int, key: Key) -> None:
        super().__init__(connections)
        self._key = key
        self._lock = threading.Lock()
        self.size = size
        with self._used(key):
            if "memory" in self._fs.protocol:  # whose open files all share one position
                self._file = io.BytesIO(self._fs.cat_file(path))
            else:
                self._file = self._fs.open(path, "rb", block_size=AHEAD)

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with self._used(self._key), self._lock:
                self._file.seek(offset)
                piece = self._file.read(min(left, PIECE))
            if not piece:
                raise Damaged(f"The data of {self._key} ends at {offset}, before it should.")
            yield piece
            offset += len(piece)
            left -= len(piece)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(ArtstoreError), self._used(self._key):
                file.close()
                self._end(sound=True)
