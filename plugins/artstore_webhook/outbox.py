"""Events that wait, one file each, in directories that all processes of an element share.

    <home>/state/webhook/new/<id>.json      to be delivered
    <home>/state/webhook/sent/<id>.json     delivered a while ago: told once more, it is not sent once more
    <home>/state/webhook/dead/<id>.json     given up; moved back to new/ it is tried again
    <home>/state/webhook/sender             held by `flock` by the one process that delivers

A file is whole when it has its name. A process that dies leaves nothing to be taken over.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from artstore.errors import DISK_FULL_ERRNOS, StorageFull, Unavailable

REMEMBERED = 600.0
"""Seconds for which a delivered event is known."""
_SUFFIX = ".json"
_TEMP = "."


class Outbox:
    """The outbox of one element, in the hands of one process."""

    def __init__(self, directory: Path) -> None:
        self._new, self._sent, self._dead = (directory / name for name in ("new", "sent", "dead"))
        for place in (self._new, self._sent, self._dead):
            place.mkdir(mode=0o750, parents=True, exist_ok=True)
        for parent in (directory, directory.parent):
            _fsync(parent)
        self._sender = directory / "sender"
        self._fd = -1
        self._unflushed: list[str] = []
        for event in self._new.glob(f"*{_SUFFIX}"):
            if not _is_whole(event):  # a power cut kept its name alone; it is told again
                event.unlink(missing_ok=True)

    def put(self, event_id: str, event: bytes) -> None:
        """Keep an event, unless it is known already. Durable after `flush`. Raises `StorageFull`, `Unavailable`."""
        name = event_id + _SUFFIX
        if any((place / name).exists() for place in (self._new, self._sent, self._dead)):
            return
        temp = self._new / f"{_TEMP}{secrets.token_hex(8)}"
        with _translated():
            try:
                temp.write_bytes(event)
                temp.rename(self._new / name)
            except BaseException:
                temp.unlink(missing_ok=True)
                raise
        self._unflushed.append(name)

    def flush(self) -> None:
        """What was put is durable, or delivered, on return. Raises `StorageFull`, `Unavailable`."""
        with _translated():
            for name in self._unflushed:
                try:
                    _fsync(self._new / name)
                except FileNotFoundError:  # delivered
                    continue
            if self._unflushed:
                _fsync(self._new)
        self._unflushed.clear()

    def lead(self) -> bool:
        """Whether this process is the one that delivers; once it is, it stays that until it closes."""
        if self._fd < 0:
            fd = os.open(self._sender, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._fd = fd
        return True

    def waiting(self, late: float) -> list[str]:
        """The ids of the events that are due, oldest first, those of one file in its order.

        Processes put what they hear at their own pace: an event whose predecessor was not seen waits `late` seconds
        for it, and holds up nothing but its file.
        """
        limit = time.time() - late
        came: list[tuple[str, float]] = []
        with os.scandir(self._new) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    came.append((entry.name.removesuffix(_SUFFIX), entry.stat().st_ctime))
        due: list[tuple[float, list[str]]] = []
        for _, events in groupby(sorted(came), lambda event: event[0].rpartition("_")[0]):
            names: list[str] = []
            oldest = math.inf
            for name, at in events:
                if at > limit and not self._is_next(name, names[-1:]):
                    break
                names.append(name)
                oldest = min(oldest, at)
            if names:
                due.append((oldest, names))
        return [name for _, names in sorted(due) for name in names]

    def _is_next(self, name: str, before: list[str]) -> bool:
        """Whether nothing can be missing between this event and what went, or goes, before it."""
        file, _, step = name.rpartition("_")
        if step.isdigit():
            revision = int(step) - 1
        else:
            revision = json.loads((self._new / (name + _SUFFIX)).read_bytes())["data"].get("revision", 0)
        expected = f"{file}_{revision:019d}"
        if revision < 1 or [expected] == before:
            return True
        return any((place / (expected + _SUFFIX)).exists() for place in (self._sent, self._dead))

    def read(self, event_id: str) -> tuple[bytes, float]:
        """The event, and for how many seconds it has been waiting."""
        path = self._new / (event_id + _SUFFIX)
        return path.read_bytes(), time.time() - path.stat().st_ctime

    def delivered(self, event_id: str) -> None:
        (self._new / (event_id + _SUFFIX)).rename(self._sent / (event_id + _SUFFIX))

    def give_up(self, event_id: str) -> None:
        (self._new / (event_id + _SUFFIX)).rename(self._dead / (event_id + _SUFFIX))

    def dead(self) -> int:
        """How many were given up."""
        return len(os.listdir(self._dead))

    def sweep(self) -> None:
        """Forget what was delivered long ago, and what a crash left half-written."""
        limit = time.time() - REMEMBERED
        for place, only in ((self._sent, ""), (self._new, _TEMP)):
            with os.scandir(place) as entries:
                old = [e.path for e in entries if e.name.startswith(only) and e.stat().st_ctime < limit]
            for path in old:
                Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process deliver."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_whole(event: Path) -> bool:
    try:
        json.loads(event.read_bytes())
    except ValueError:
        return False
    except FileNotFoundError:  # delivered meanwhile
        pass
    return True


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in DISK_FULL_ERRNOS:
            raise StorageFull("There is no space left for events.") from e
        raise Unavailable(f"The outbox cannot be written: {os.strerror(e.errno or 0)}.") from e
