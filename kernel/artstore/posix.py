"""What the system says about the element's own state (`<home>/state`), in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.errors import DISK_FULL_ERRNOS, StorageFull, Unavailable, startup_error


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an `OSError` into `StorageFull` or `Unavailable`: no call of the system may end as a fault of ours."""
    try:
        yield
    except OSError as e:
        kind = StorageFull if e.errno in DISK_FULL_ERRNOS else Unavailable
        raise kind(f"{what}: {os.strerror(e.errno or 0)}.") from e


@contextmanager
def usable(directory: Path, name: str = "directory") -> Iterator[None]:
    """The same for a directory of the home at start: what the operator can mend is a `ConfigError`."""
    try:
        yield
    except OSError as e:
        raise startup_error(
            e,
            f"The {name} {directory} cannot be used",
            place="--home or ARTSTORE_HOME",
            cure="Make it a directory that this user may read and write.",
        ) from e
