"""Reading: find a file by its id, and open it."""

from __future__ import annotations

from collections.abc import Iterable

from artstore.attr import Attr, decode
from artstore.errors import Damaged, NotFound
from artstore.ids import FileId, Key
from artstore.index import Index, list_entries
from artstore.modes import Operation
from artstore.parts import Parts
from artstore.spi import Reader, RecoverableBackend, Span, SupportsRedirect


class Download:
    """A file held open for reading: it stays readable while it is deleted. Used by one thread at a time."""

    def __init__(self, attr: Attr, reader: Reader, backend: RecoverableBackend) -> None:
        self.attr = attr
        self._backend = backend
        self._reader = reader
        self.path = reader.path
        """A path of the same bytes on this machine, or None."""

    def pieces(self, span: Span) -> Iterable[bytes]:
        """Yield the bytes of `span` in pieces of at most 1 MiB. Raises `Damaged` when the data ends too early."""
        return self._reader.pieces(span)

    def redirect(self, disposition: str) -> str | None:
        """Return an address in the store where the client may fetch the data itself, or None. Raises `Unavailable`."""
        if not isinstance(self._backend, SupportsRedirect):
            return None
        return self._backend.redirect(
            self.attr.key, content_type=self.attr.content_type, disposition=disposition
        )

    def close(self) -> None:
        """Release the data. A second call has no effect."""
        self._reader.close()


def open_file(parts: Parts, index: Index, file_id: FileId) -> Download:
    """Open the data of a file. Raises `NotFound`, `Damaged`, `ModeNotAllowed`, `Unavailable`."""
    parts.element.require(Operation.DOWNLOAD)
    attr, _ = find(parts, index, file_id)
    try:
        reader = parts.backend.read(attr.key)
    except NotFound:
        # The file was deleted after we found it, or its data is missing: the sidecar tells which.
        find(parts, index, file_id)
        raise Damaged(f"The data of {file_id} is missing.") from None
    if reader.size != attr.size:
        reader.close()
        find(parts, index, file_id)  # likewise
        raise Damaged(f"The data of {file_id} has {reader.size} bytes; its sidecar says {attr.size}.")
    return Download(attr, reader, parts.backend)


def find(parts: Parts, index: Index, file_id: FileId) -> tuple[Attr, bytes]:
    """Return the attr of a file, and its sidecar as it is. Raises `NotFound`, `Damaged`, `Unavailable`.

    The index says where the file lies; the store says whether it exists.
    """
    try:
        return _find(parts, index, file_id)
    except NotFound:
        parts.element.record()  # a store that is not there does not prove that there is no such file
        raise


def _find(parts: Parts, index: Index, file_id: FileId) -> tuple[Attr, bytes]:
    backend, naming = parts.backend, parts.naming
    key, complete = index.key(file_id)
    found = _try(backend, file_id, key)
    if found is None and complete:
        # Only now, since this may ask other nodes as well.
        key, complete = index.locate(file_id)
        found = _try(backend, file_id, key)
    if found is not None:
        return found
    if key is None and complete and not backend.capabilities.shared:
        raise NotFound(f"There is no file {file_id}.")
    directory = naming.directory_of(file_id)
    # The id tells the directory. While the index is incomplete all directories are searched, that of the id first.
    directories: Iterable[str] = () if directory is None else (directory,)
    if not complete:
        directories = [*directories, *(d for d in backend.list_directories() if d != directory)]
    for place in directories:
        for entry in list_entries(parts, place):
            if entry.sidecar and naming.carries(entry.key.rpartition("/")[2], file_id):
                try:
                    return _load(backend, file_id, entry.key)
                except NotFound:
                    continue
    raise NotFound(f"There is no file {file_id}.")


def _try(backend: RecoverableBackend, file_id: FileId, key: Key | None) -> tuple[Attr, bytes] | None:
    if key is None:
        return None
    try:
        return _load(backend, file_id, key)
    except NotFound:  # the entry is stale, or the file was deleted a moment ago
        return None


def _load(backend: RecoverableBackend, file_id: FileId, key: Key) -> tuple[Attr, bytes]:
    sidecar = backend.read_sidecar(key)
    attr = decode(sidecar, key)
    if attr.file_id != file_id:
        raise NotFound(f"There is no file {file_id}.")
    return attr, sidecar
