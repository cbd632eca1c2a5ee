"""The index: the cache, as far as it may be believed. It says where files lie, and answers searches whole or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artstore import checkpoint
from artstore.errors import Unavailable
from artstore.ids import FileId
from artstore.spi import Page, Query, Totals

if TYPE_CHECKING:
    from artstore.kernel import Kernel


class Index:
    """What the cache says while every row is written and the cache is the one that we filled; else `Unavailable`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def search(self, query: Query) -> Page:
        """One page of the files that match. Raises `Unavailable` unless the cache answers and is whole."""
        self._require_whole()  # before, so that no row is paid between the two
        page = self._kernel.cache.search(query)
        self._require_known()  # and after: it may have been begun anew
        return page

    def totals(self) -> Totals:
        """Of all files. Raises `Unavailable` unless the cache answers and is whole."""
        self._require_whole()
        totals = self._kernel.cache.totals()
        self._require_known()
        return totals

    def key(self, file_id: FileId) -> tuple[str | None, bool]:
        """The key that is said to be the file's; and whether the cache was there to be asked."""
        try:
            return self._kernel.keeper.owed_key(file_id) or self._kernel.cache.key(file_id), True
        except Unavailable:
            return None, False

    def where(self, file_id: FileId) -> tuple[str | None, bool]:
        """The key that is said to be the file's; and, when there is none, whether that proves that there is no file."""
        keeper = self._kernel.keeper
        whole = keeper.is_whole()
        key = keeper.owed_key(file_id)
        try:
            key = key or self._kernel.cache.key(file_id)
            return key, whole and (key is not None or checkpoint.knows(self._kernel))
        except Unavailable:
            return key, False

    def check(self) -> None:
        """Raise `Unavailable` with a sentence unless searches are answered and rows can be written."""
        self._kernel.cache.check()
        self.totals()

    def _require_whole(self) -> None:
        if not self._kernel.keeper.is_whole():
            raise Unavailable("The index of this element is not whole at the moment; it is being repaired.")

    def _require_known(self) -> None:
        if not checkpoint.knows(self._kernel):
            raise Unavailable("The index of this element was begun anew; it is being filled.")
