"""A file on its way to a reader."""

from __future__ import annotations

from collections.abc import Iterable

from artstore.attr import Attr
from artstore.spi import Reader, RecoverableBackend, Span, SupportsRedirect


class Download:
    """A file held open for reading."""

    def __init__(self, attr: Attr, reader: Reader, backend: RecoverableBackend) -> None:
        self.attr = attr
        self._backend = backend
        self._reader = reader
        self.path = reader.path

    def pieces(self, span: Span) -> Iterable[bytes]:
        return self._reader.pieces(span)

    def redirect(self, disposition: str) -> str | None:
        """An address in the store from which the client may fetch it instead, or None."""
        if not isinstance(self._backend, SupportsRedirect):
            return None
        return self._backend.redirect(
            self.attr.key, content_type=self.attr.content_type, disposition=disposition
        )

    def close(self) -> None:
        self._reader.close()
