"""The checkpoint: up to which hour the index is durable, and the generation that identifies that index.

It lies in the store, so that it outlives the cache. The generation changes whenever traces are removed that would
repair an older cache (tombstones, the log, the hours before the checkpoint). So an older copy of the database is
recognised as such, and is rebuilt.
"""

from __future__ import annotations

import json
import logging
import secrets
from datetime import datetime, timedelta
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, ValidationError

from artstore.attr import Timestamp, timestamp
from artstore.errors import ConfigError, Unavailable
from artstore.ids import now
from artstore.parts import Parts

log = logging.getLogger("artstore.checkpoint")

CHECKPOINT = "checkpoint.json"
MARGIN = timedelta(hours=1)
"""How far before the checkpoint recovery begins to compare: files of younger uploads lie within."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clock may be behind the checkpoint before the element refuses to start."""


class Checkpoint(BaseModel):
    """The time up to which the index is durable. `directory`: where recovery begins to compare. `generations`: those
    that the cache may have to be recognised."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    at: Timestamp
    directory: str
    generations: tuple[str, ...]


def read(parts: Parts) -> Checkpoint | None:
    """Return the checkpoint of the store, or None when there is none that can be read. Raises `Unavailable`."""
    document = parts.backend.read_document(CHECKPOINT)
    return None if document is None else _parse(document)


@lru_cache(maxsize=2)
def _parse(document: bytes) -> Checkpoint | None:
    try:
        return Checkpoint.model_validate_json(document)
    except ValidationError:
        log.error("the checkpoint cannot be read: the index is rebuilt")
        return None


def flush(parts: Parts, started: datetime, *, move: bool) -> None:
    """Make the cache durable and give it a new generation.

    With `move` the next recovery begins to compare at `started`, the time before the first change that this flush may
    have missed. Raises `Unavailable`, also when the cache was replaced and has to be rebuilt first.
    """
    with parts.cluster_lock("recovery"):
        known, generation = read(parts), parts.cache.generation()
        if known is None or generation is None or generation not in known.generations:
            raise Unavailable("The cache was replaced; it has to be rebuilt first.")
        advance(parts, known, generation, started, move=move)


def advance(
    parts: Parts, known: Checkpoint | None, generation: str, at: datetime, *, move: bool = True
) -> None:
    """Give the cache of `generation` a new generation; everything in it is durable on return.

    `known`: the checkpoint in the store; None when it counts for nothing. Raises `Unavailable`, also when the cache has
    another generation by now: it was replaced.
    """
    new = secrets.token_hex(8)
    directory = parts.naming.directory_at(at - MARGIN)
    present = Checkpoint(at=timestamp(at), directory=directory, generations=(new,))
    if known is None:
        _write(parts, present)
    else:
        # Until the new generation is in the cache the old one counts as well, so a crash between the two costs
        # nothing. Until then the entries are not durable either, so the old directory stays.
        _write(parts, known.model_copy(update={"generations": (generation, new)}))
        # The checkpoint never moves back: a clock that was set back makes no hour durable again.
        last = max(known.at, present.at) if move else known.at
        begin = max(known.directory, directory) if move else known.directory
        present = present.model_copy(update={"at": last, "directory": begin})
    parts.cache.set_generation(new, if_match=generation)
    _write(parts, present)


def recognises(parts: Parts) -> bool:
    """Return whether the cache has a generation that the checkpoint names. Raises `Unavailable`."""
    for _ in range(3):  # another process may set a new generation between the two reads
        generation, checkpoint = parts.cache.generation(), read(parts)
        if checkpoint is not None and generation in checkpoint.generations:
            return True
    return False


def precedes(parts: Parts, directory: str) -> bool:
    """Return whether `directory` lies before the checkpoint, so that recovery would not compare it.

    A directory of a new file does when the clock was set back, or was ahead for a while.
    """
    checkpoint = read(parts)
    return checkpoint is not None and directory < checkpoint.directory


def check_clock(checkpoint: Checkpoint | None) -> None:
    """Raise `ConfigError` when, by the clock, the store was in use in the future."""
    if checkpoint is None:
        return
    last = datetime.fromisoformat(checkpoint.at)
    if now() < last - CLOCK_TOLERANCE:
        raise ConfigError(
            f"The clock says {timestamp(now())}, but this store was in use at {checkpoint.at}.",
            place="the system clock",
            cure="Set the clock; if it is right now and was wrong then, remove .artstore/checkpoint.json.",
        )


def _write(parts: Parts, checkpoint: Checkpoint) -> None:
    document = json.dumps(checkpoint.model_dump(mode="json"), indent=2).encode()
    parts.backend.write_document(CHECKPOINT, document)
