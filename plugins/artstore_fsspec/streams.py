"""Open files of an fsspec file system. Each has its own connection where threads cannot share one."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from artstore.errors import ArtstoreError, Damaged, OutcomeUnknown, Unavailable
from artstore.ids import Key
from artstore.spi import PIECE, Reader, Span
from artstore_fsspec.connections import Connections
from artstore_fsspec.namespace import Namespace, translate_errors
from artstore_objects.store import Upload

WRITE_BUFFER = 8 * PIECE
"""Bytes that the library of an object store collects before it sends them. Its own default may be 50 MiB."""
READ_BUFFER = 4 * PIECE
"""Bytes that such a library reads ahead."""


class _Stream:
    """An open file and the connection that holds it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._fs: Any = connections.check_out()
        self._file: Any = None

    @contextmanager
    def _use(self, what: str) -> Iterator[None]:
        """Translate exceptions. After one, the connection is given up."""
        try:
            with translate_errors(what):
                yield
        except BaseException:
            self._release(healthy=False)
            raise

    def _release(self, *, healthy: bool) -> None:
        fs, self._fs = self._fs, None
        if fs is not None and healthy:
            self._connections.give_back(fs)
        elif fs is not None:
            self._connections.discard()


class FsspecUpload(_Stream, Upload):
    """A new file: in the staging area, or under its name where nothing shows before it is closed."""

    def __init__(self, names: Namespace, name: str) -> None:
        staged = names.new_staged() if names.staged else None
        super().__init__(names.connections)
        self._names = names
        self._name = name
        self._staged = staged
        with self._use("this file"):
            if staged is None:
                self._file = self._fs.open(names.path(name), "wb", block_size=WRITE_BUFFER)
                self._publish_on_close(False)
            else:
                self._file = self._fs.open(names.path(staged), "wb")

    def _publish_on_close(self, publish: bool) -> None:
        """Set whether closing the file publishes it.

        A buffered file of fsspec publishes also when it is garbage-collected, unless `forced` says that it was done.
        """
        if self._staged is None:
            self._file.forced = not publish

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with self._use("this file"):
            self._publish_on_close(True)  # else it refuses to write
            self._file.write(bytes(piece))
            self._publish_on_close(False)

    def finish(self) -> bool:
        if self._staged is None:
            return self._publish()
        with self._use("this file"):
            self._close()
        with translate_errors(self._name), self._names.lock(self._name):
            if self._names.head(self._name) is not None:
                return False
            self._names.move(self._staged, self._name)
            self._staged = None
        return True

    def _publish(self) -> bool:
        with translate_errors(self._name), self._names.lock(self._name):
            if self._names.head(self._name) is not None:
                return False
            try:
                with self._use("this file"):
                    self._publish_on_close(True)
                    self._close()
            except Unavailable as e:
                raise OutcomeUnknown(e.detail) from e
        return True

    def _close(self) -> None:
        file, self._file = self._file, None
        file.close()
        self._release(healthy=True)

    def abort(self) -> None:
        try:
            with self._use("this file"):
                if self._file is not None:
                    if self._staged is None:
                        self._file.discard()
                    self._close()
            if self._staged is not None:
                with translate_errors("this file"), self._names.lock(self._staged):
                    self._names.remove(self._staged)
        except ArtstoreError:
            pass  # `abort_uploads` removes it after the retention


class FsspecReader(_Stream, Reader):
    """A file that is open for reading."""

    path: str | None = None

    def __init__(self, connections: Connections, path: str, size: int, key: Key) -> None:
        super().__init__(connections)
        self._key = key
        self._lock = threading.Lock()
        self.size = size
        with self._use(key):
            if "memory" in self._fs.protocol:  # all open files of one name share one position
                self._file = io.BytesIO(self._fs.cat_file(path))
            else:
                self._file = self._fs.open(path, "rb", block_size=READ_BUFFER)

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with self._use(self._key), self._lock:
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
            with suppress(ArtstoreError), self._use(self._key):
                file.close()
                self._release(healthy=True)
