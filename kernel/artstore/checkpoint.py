"""The checkpoint: up to where the cache is durable, and by which mark it is known again.

It lies in the store, so that it outlives the cache. The mark changes whenever the traces go that would repair an
older cache (tombstones, the log, the hours before): a copy of the database taken before that is not believed.
"""

from __future__ import annotations

import json
import logging
import secrets
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from artstore.attr import Timestamp, timestamp
from artstore.errors import ConfigError
from artstore.ids import now

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.recovery")

CHECKPOINT = "checkpoint.json"
MARGIN = timedelta(hours=1)
"""How far before the checkpoint recovery looks: files of younger uploads lie within."""
CLOCK_SLACK = timedelta(minutes=5)


class Checkpoint(BaseModel):
    """Up to where the cache is known to be durable. `stamps`: the marks a cache may carry to be believed."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    at: Timestamp
    directory: str
    stamps: tuple[str, ...]


def read(kernel: Kernel) -> Checkpoint | None:
    """The checkpoint of the store; None when there is none that can be read."""
    document = kernel.backend.read_document(CHECKPOINT)
    return None if document is None else _parsed(document)


@lru_cache(maxsize=2)
def _parsed(document: bytes) -> Checkpoint | None:
    try:
        return Checkpoint.model_validate_json(document)
    except ValidationError:
        log.error("the checkpoint cannot be read: the cache is filled anew")
        return None


def renew(kernel: Kernel, known: Checkpoint | None, stamp: str, at: datetime, *, move: bool = True) -> None:
    """Give the cache that carries `stamp` a new mark; everything in it is durable on return.

    `known`: what stands in the store, None when it is of no worth. Raises `Unavailable` when the cache carries
    another mark: it was begun anew meanwhile.
    """
    new = secrets.token_hex(8)
    # Until the new mark is in the cache, the old one counts as well: a crash between the two costs nothing. And
    # until then the rows are not durable either: the old directory stays.
    directory = kernel.naming.directory_at(at - MARGIN)
    present = Checkpoint(at=timestamp(at), directory=directory, stamps=(new,))
    if known is not None:
        _put(kernel, known.model_copy(update={"stamps": (stamp, new)}))
        # Never back: a clock that was set back makes no hour durable again.
        at_last = max(known.at, present.at) if move else known.at
        present = present.model_copy(
            update={"at": at_last, "directory": max(known.directory, directory) if move else known.directory}
        )
    else:
        _put(kernel, present)
    kernel.cache.set_generation(new, if_match=stamp)
    _put(kernel, present)


def knows(kernel: Kernel) -> bool:
    """Whether the cache carries a mark of ours. Raises `Unavailable`."""
    for _ in range(3):  # a neighbour may give it a new one between the two looks
        stamp, checkpoint = kernel.cache.generation(), read(kernel)
        if checkpoint is not None and stamp in checkpoint.stamps:
            return True
    return False


def is_behind(kernel: Kernel, directory: str) -> bool:
    """Whether recovery would not look through `directory`: the clock was set back, or jumped ahead meanwhile."""
    checkpoint = read(kernel)
    return checkpoint is not None and directory < checkpoint.directory


def check_clock(checkpoint: Checkpoint | None) -> None:
    """Raise `ConfigError` when the clock says that the store was in use in the future."""
    if checkpoint is None:
        return
    last = datetime.fromisoformat(checkpoint.at)
    if now() < last - CLOCK_SLACK:
        raise ConfigError(
            f"The clock says {timestamp(now())}, but this store was in use at {checkpoint.at}.",
            place="the system clock",
            cure="Set the clock; if it is right now and was wrong then, remove .artstore/checkpoint.json.",
        )


def _put(kernel: Kernel, checkpoint: Checkpoint) -> None:
    kernel.backend.write_document(
        CHECKPOINT, json.dumps(checkpoint.model_dump(mode="json"), indent=2).encode()
    )
