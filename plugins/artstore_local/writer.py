"""An upload on its way to the disk."""

from __future__ import annotations

import logging
import os

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import NotFound, Unavailable
from artstore.ids import Key
from artstore.spi import Writer
from artstore_local import disk
from artstore_local.fsync import Syncer
from artstore_local.group_commit import Committer, Publication
from artstore_local.preallocation import Preallocation
from artstore_local.staging import Staging, staged_name

log = logging.getLogger("artstore.local")

BATCHED_FSYNC_LIMIT = 1 << 20
"""Bytes of data up to which other uploads of the batch wait for its fsync. More of them are fsynced before."""


class LocalWriter(Writer):
    """Data staged for one key."""

    def __init__(
        self, key: Key, staging: Staging, committer: Committer, syncer: Syncer, *, preallocate: bool
    ) -> None:
        self._key = key
        self._name = staged_name(key)
        self._shard = staging.shard()
        self._committer = committer
        self._syncer = syncer
        self._size = 0
        self._fd = disk.create(self._name, self._shard)
        self._preallocation = Preallocation(self._fd, enabled=preallocate)
        self._finished = False
        """Nothing of this upload is staged any more."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with disk.translate_errors("this file"):
            self._preallocation.extend(self._size, len(piece))
            disk.write_all(self._fd, piece)
        self._size += len(piece)

    def publish(self, sidecar: bytes) -> None:
        try:
            with disk.translate_errors("this file"):
                self._publish(sidecar)
            self._finished = True
        except NotFound:
            raise Unavailable(
                "The staged upload or its directory was removed by another process; try again."
            ) from None
        finally:
            self.abort()

    def _publish(self, sidecar: bytes) -> None:
        fd = disk.create(self._name + SIDECAR_SUFFIX, self._shard)
        try:
            disk.write_all(fd, sidecar)
            self._preallocation.trim(self._size)
            unsynced: tuple[int, ...] = (self._fd, fd)
            if self._size > BATCHED_FSYNC_LIMIT:
                self._syncer.fsync(self._fd)
                unsynced = (fd,)
            self._committer.publish(Publication(self._key, self._shard, unsynced))
        finally:
            os.close(fd)

    def abort(self) -> None:
        fd, self._fd = self._fd, -1
        disk.close(fd)
        if self._finished:
            return
        self._finished = True
        try:
            # The sidecar goes last: while it is there, recovery knows of this upload.
            disk.unlink(self._name, self._shard)
            disk.unlink(self._name + SIDECAR_SUFFIX, self._shard)
        except OSError:
            log.warning("could not remove the staged file %s; the next start removes it", self._name)
