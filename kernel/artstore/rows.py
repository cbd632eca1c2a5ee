"""Rows of the cache, brought to what the sidecars say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from artstore.attr import Attr, decode
from artstore.errors import Damaged, NotFound
from artstore.ids import FileId, Key, now

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.rows")

BATCH = 500
PATIENCE = 5.0
"""Seconds to wait for a file that another process changes: one that is stopped must not stop the others."""
RECENT = timedelta(hours=24)
"""Longer than anybody takes from a look at a sidecar to its row."""


def believe(kernel: Kernel, key: Key) -> Attr | None:
    """What the sidecar of `key` says; None when there is none that can be believed."""
    try:
        return decode(kernel.backend.read_sidecar(key), key)
    except NotFound:
        return None
    except Damaged as e:
        log.error("%s", e.detail)
        return None


def repair_row(kernel: Kernel, key: Key, file_id: FileId, *, anew: bool = False) -> bool:
    """Make the cache row of one file say what its sidecar says; True when there is a file.

    `anew`: also where the row claims a newer revision than the sidecar has. Raises `Unavailable`.
    """
    with kernel.locks.file(file_id, patience=PATIENCE):
        try:
            attr = decode(kernel.backend.read_sidecar(key), key)
        except NotFound:
            attr = None
        except Damaged as e:
            log.error("%s", e.detail)
            return False
        there = attr is not None and attr.file_id == file_id
        if (anew or not there) and kernel.cache.key(file_id) == key:
            kernel.cache.remove([file_id])
            kernel.keeper.changed()
        if attr is None or not there:
            return False
        kernel.cache.put([attr])
        kernel.keeper.changed()
        if kernel.backend.capabilities.shared and believe(kernel, key) is None:
            kernel.cache.remove([file_id])  # another node deleted it meanwhile, and found no row to remove
            return False
        return True


def put_rows(kernel: Kernel, attrs: Sequence[Attr], *, lonely: bool) -> None:
    """The rows of `attrs`, as their sidecars said a moment ago. `lonely`: nobody else writes to this store."""
    kernel.cache.put(attrs)
    kernel.keeper.changed()
    for attr in () if lonely else attrs:
        # Whoever deleted it between our look and our row removed a row that was not there yet; and may have uploaded
        # it again since, under another key, whose row ours has hidden.
        if believe(kernel, attr.key) is None:
            with kernel.keeper.doubting():
                repair_row(kernel, attr.key, attr.file_id)
                for key in _young(kernel, attr.file_id):
                    repair_row(kernel, key, attr.file_id)


def _young(kernel: Kernel, file_id: FileId) -> Iterator[str]:
    """Where a file may lie that was uploaded a moment ago."""
    for directory in kernel.backend.list_directories(kernel.naming.directory_at(now() - RECENT)):
        for entry in kernel.backend.list(directory):
            if entry.sidecar and kernel.naming.carries(entry.key.rpartition("/")[2], file_id):
                yield entry.key
