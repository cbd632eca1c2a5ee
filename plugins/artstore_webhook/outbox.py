"""Events that wait for delivery, one file each, in directories that all processes of an element share.

    <home>/state/webhook/new/<id>.json      to be delivered
    <home>/state/webhook/sent/<id>.json     delivered lately: if the change is reported again, it is not sent again
    <home>/state/webhook/dead/<id>.json     given up; if it is moved back to new/, delivery starts again
    <home>/state/webhook/sender             owned by the one process that delivers

A file under its final name is complete. A process that dies leaves nothing that another one has to take over.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from itertools import groupby
from pathlib import Path

from artstore.posix import OwnedFile, fsync_directory, translate_errors

SENT_RETENTION = 600.0
"""Seconds for which a delivered event is remembered."""
_SUFFIX = ".json"
_TEMP = "."
_WHAT = "The outbox cannot be written"


class Outbox:
    """The outbox of one element, as one process sees it.

    One thread puts and flushes; another one delivers and calls the rest.
    """

    def __init__(self, directory: Path) -> None:
        self._new, self._sent, self._dead = (directory / name for name in ("new", "sent", "dead"))
        for place in (self._new, self._sent, self._dead):
            place.mkdir(mode=0o750, parents=True, exist_ok=True)
        for parent in (directory, directory.parent):
            fsync_directory(parent)
        self._sender_path = directory / "sender"
        self._sender: OwnedFile | None = None
        self._unflushed: list[str] = []
        for event in self._new.glob(f"*{_SUFFIX}"):
            if not _is_complete(event):  # a power cut kept only the name; the change is reported again
                event.unlink(missing_ok=True)

    def put(self, event_id: str, event: bytes) -> None:
        """Keep an event, unless it is known. Durable after `flush`. Raises `StorageFull`, `Unavailable`."""
        name = event_id + _SUFFIX
        if any((place / name).exists() for place in (self._new, self._sent, self._dead)):
            return
        temp = self._new / f"{_TEMP}{secrets.token_hex(8)}"
        with translate_errors(_WHAT):
            try:
                temp.write_bytes(event)
                temp.rename(self._new / name)
            except BaseException:
                temp.unlink(missing_ok=True)
                raise
        self._unflushed.append(name)

    def flush(self) -> None:
        """Make every event that was put durable, unless it is delivered. Raises `StorageFull`, `Unavailable`."""
        with translate_errors(_WHAT):
            for name in self._unflushed:
                try:
                    _fsync_file(self._new / name)
                except FileNotFoundError:  # delivered
                    continue
            if self._unflushed:
                fsync_directory(self._new)
        self._unflushed.clear()

    def become_sender(self) -> bool:
        """Return whether this process is the one that delivers. It stays that until `close`. Raises `OSError`."""
        if self._sender is None:
            self._sender = OwnedFile.acquire(self._sender_path)
        return self._sender is not None

    def list_due(self, order_timeout: float) -> list[str]:
        """Return the ids of the events to deliver, oldest first; those of one file in the order of its changes.

        Processes put their events at their own pace. An event whose predecessor is missing waits `order_timeout`
        seconds for it, and holds up only the events of its file. Raises `OSError`.
        """
        limit = time.time() - order_timeout
        events: list[tuple[str, float]] = []
        with os.scandir(self._new) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    events.append((entry.name.removesuffix(_SUFFIX), entry.stat().st_ctime))
        due: list[tuple[float, list[str]]] = []
        for _, of_file in groupby(sorted(events), lambda event: event[0].rpartition("_")[0]):
            ids: list[str] = []
            oldest = math.inf
            for event_id, arrival in of_file:
                if arrival > limit and not self._is_next(event_id, ids[-1:]):
                    break
                ids.append(event_id)
                oldest = min(oldest, arrival)
            if ids:
                due.append((oldest, ids))
        return [event_id for _, ids in sorted(due) for event_id in ids]

    def _is_next(self, event_id: str, predecessor: list[str]) -> bool:
        """Return whether no event can be missing between this one and the last that was, or will be, delivered."""
        file, _, step = event_id.rpartition("_")
        if step.isdigit():
            revision = int(step) - 1
        else:
            revision = json.loads((self._new / (event_id + _SUFFIX)).read_bytes())["data"].get("revision", 0)
        expected = f"{file}_{revision:019d}"
        if revision < 1 or [expected] == predecessor:
            return True
        return any((place / (expected + _SUFFIX)).exists() for place in (self._sent, self._dead))

    def read(self, event_id: str) -> tuple[bytes, float]:
        """Return the event and its age in seconds. Raises `OSError`."""
        path = self._new / (event_id + _SUFFIX)
        return path.read_bytes(), time.time() - path.stat().st_ctime

    def move_to_sent(self, event_id: str) -> None:
        """End an event that was delivered. Raises `OSError`."""
        (self._new / (event_id + _SUFFIX)).rename(self._sent / (event_id + _SUFFIX))

    def move_to_dead(self, event_id: str) -> None:
        """Give an event up; it is kept for the operator. Raises `OSError`."""
        (self._new / (event_id + _SUFFIX)).rename(self._dead / (event_id + _SUFFIX))

    def count_dead(self) -> int:
        """Return how many events were given up. Raises `OSError`."""
        return len(os.listdir(self._dead))

    def sweep(self) -> None:
        """Remove events that were delivered long ago, and files that a crash left incomplete. Raises `OSError`."""
        limit = time.time() - SENT_RETENTION
        for place, prefix in ((self._sent, ""), (self._new, _TEMP)):
            with os.scandir(place) as entries:
                old = [e.path for e in entries if e.name.startswith(prefix) and e.stat().st_ctime < limit]
            for path in old:
                Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process deliver. A second call has no effect."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def _is_complete(event: Path) -> bool:
    try:
        json.loads(event.read_bytes())
    except ValueError:
        return False
    except FileNotFoundError:  # delivered meanwhile
        pass
    return True


def _fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
