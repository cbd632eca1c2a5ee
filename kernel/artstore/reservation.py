"""The name of a new upload is its own: no file has it, no tombstone, and no other upload under way.

An id that its caller chose does not change when the request for it is tried again, so within one second the name would
not either. Were it shared, whoever settles the first try, reaps it or fails with it could do that to the second.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from artstore.errors import Conflict
from artstore.ids import Key, uuid7
from artstore.rows import PATIENCE
from artstore.spi import Intent, Name, Principal, Writer

if TYPE_CHECKING:
    from artstore.kernel import Kernel

_TRIES = 64
"""Of a chosen id: each name differs by its second, and is taken while an upload has it or until its tombstone goes."""


def take(
    kernel: Kernel, by: Principal, filename: str, at: datetime, chosen: str | None
) -> tuple[str, Name, Intent, Writer]:
    """Begin an upload, under the id that its caller chose or a new one. Raises `Conflict`, `StorageFull`,
    `Unavailable`; then nothing is begun."""
    for tried in range(_TRIES):
        file_id = chosen or uuid7(at)
        moment = at + timedelta(seconds=tried) if chosen else at
        name = kernel.naming.name(file_id=file_id, original_filename=filename, username=by.name, at=moment)
        intent = kernel.wal.begin("upload", by=by.name, file_id=file_id, key=name.key)
        try:
            return file_id, name, intent, _create(kernel, name.key, chosen)
        except BaseException as e:
            intent.roll_back(str(e))
            if not isinstance(e, Conflict) or tried == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _create(kernel: Kernel, key: Key, chosen: str | None) -> Writer:
    if chosen is None:
        return kernel.backend.create(key)
    taken = Conflict("Other uploads of this id were begun at the same time; try again.")
    # After our own intent: of two nodes that begin at once at least one sees the other's.
    if key in kernel.coordination.open_uploads(chosen):
        raise taken
    if not kernel.backend.capabilities.lists_uploads:
        return kernel.backend.create(key)
    with kernel.locks.exclusive("names"):
        if key in kernel.backend.in_progress(key):
            raise taken
        return kernel.backend.create(key)


def settle(kernel: Kernel, key: Key, *, late: bool) -> None:
    """Settle the upload of `key`, whose writer is dead or (`late`) may yet wake. Raises `Unavailable`.

    What the dead had staged was reaped, so what is staged now is a living one's, who took the name since: nothing is
    taken from it, and what becomes of the name is its own affair.
    """
    if late or not kernel.backend.capabilities.lists_uploads:
        kernel.backend.resolve(key)
        return
    with kernel.locks.exclusive("names", patience=PATIENCE):
        if key not in kernel.backend.in_progress(key):
            kernel.backend.resolve(key)
