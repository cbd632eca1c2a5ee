"""Any fsspec file system as an object store, as far as it can be one.

The conditions of a put are kept by locks: threads and processes of one home see each other, other machines do not. A
file appears under its name by a move from the staging area, or by one write where nothing shows before its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from artstore.errors import ArtstoreError, OutcomeUnknown
from artstore.ids import Key
from artstore.spi import PIECE
from artstore_fsspec.namespace import STAGING, Namespace, describe, translate_errors
from artstore_fsspec.streams import FsspecReader, FsspecUpload
from artstore_objects.store import Content, ObjectInfo, ObjectStore


class FsspecStore(ObjectStore):
    """The files of one namespace as objects. The etag is the SHA-256 of the content; listings do not show it."""

    def __init__(self, names: Namespace) -> None:
        self._names = names
        self._fs = names.connections

    def head(self, name: str) -> ObjectInfo | None:
        return self._names.head(name)

    def get(self, name: str, limit: int) -> Content | None:
        with translate_errors(name):
            if self.head(name) is None:  # for a directory each file system raises another exception
                return None
            try:
                with self._fs.lend() as fs:
                    path = self._names.path(name)
                    content = bytes(fs.cat_file(path, start=0, end=limit, **self._names.options))
            except FileNotFoundError:
                return None
        return Content(content, hashlib.sha256(content).hexdigest(), "")

    def put(
        self,
        name: str,
        content: bytes,
        *,
        writer_id: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        with translate_errors(name), self._names.lock(name):
            if (
                if_absent and self.head(name) is not None
            ):  # `exists` answers no when the server does not answer
                return False
            if if_match is not None and not self._matches(name, if_match):
                return False
            try:
                self._write(name, content)
            except Exception as e:
                self._require_written(name, content, e)
        return True

    def _matches(self, name: str, etag: str) -> bool:
        present = self.get(name, 2 * PIECE)
        return present is not None and present.etag == etag

    def _require_written(self, name: str, content: bytes, error: Exception) -> None:
        """Raise `error`, unless the content is there in spite of it."""
        try:
            present = self.get(name, len(content) + 1)
        except ArtstoreError as e:
            raise OutcomeUnknown(e.detail) from error
        if present is None or present.content != content:
            if isinstance(error, TimeoutError | ConnectionError | EOFError):  # the write may still happen
                raise OutcomeUnknown("The file system did not answer whether it has written.") from error
            raise error

    def _write(self, name: str, content: bytes) -> None:
        names = self._names
        if not names.staged:
            with self._fs.lend() as fs:
                fs.pipe_file(names.path(name), content, **names.options)
            return
        staged = names.new_staged()
        try:
            with self._fs.lend() as fs:
                fs.pipe_file(names.path(staged), content)
            names.move(staged, name)
        except BaseException:
            # Without its lock: only we know the name, and the lock that we hold may be the same. If this fails,
            # `abort_uploads` removes it after the retention.
            with suppress(Exception):
                names.remove(staged)
            raise

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        with translate_errors(name), self._names.lock(name):
            if if_match is None or self._matches(name, if_match):
                self._names.remove(name)

    # `copy` is the default, through this process: not every file system copies, and some return before they are done.

    def list(self, prefix: str) -> Iterator[ObjectInfo | str]:
        path = self._names.path(prefix).rstrip("/")
        with translate_errors(prefix or "the store"):
            try:
                with self._fs.lend() as fs:
                    found = fs.ls(path or fs.root_marker, detail=True, **self._names.options)
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in found:
            name = prefix + entry["name"].rstrip("/").rpartition("/")[2]
            if entry["type"] == "directory":
                yield f"{name}/"
            elif self._names.path(name) != path:  # some list a file as its own content
                yield describe(name, entry)

    def upload(self, name: str, writer_id: str) -> FsspecUpload:
        with translate_errors(name):
            return FsspecUpload(self._names, name)

    def open(self, name: str, key: Key) -> FsspecReader | None:
        info = self.head(name)
        if info is None:
            return None
        with translate_errors(key):
            try:
                return FsspecReader(self._fs, self._names.path(name), info.size, key)
            except FileNotFoundError:
                return None

    def abort_uploads(self, name: str | None = None, *, older_than: float = 0.0) -> None:
        """Remove what is in the staging area. With `name` nothing: staged files do not show their target."""
        if name is None:
            for staged in self.walk(STAGING):
                if staged.age > older_than:
                    self.delete(staged.name)

    def close(self) -> None:
        self._fs.close()
