"""Counters that all processes of an element add up, and that outlive each of them.

    <home>/state/metrics/<pid>-<random>      the counters of one process, mapped; held by `flock` while it lives

A record is 128 bytes: a length, the name with its labels, and the value as a double at the end. What a dead process
counted is taken over by whoever looks next, so nothing is lost and no files pile up.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("artstore.metrics")

RECORD, VALUE = 128, 120
RECORDS = 1024
_SIZE = RECORD * RECORDS


class Metrics:
    """What this process counts, and what all count together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._fd = -1
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            with self._exclusive():  # or who looks between the two takes it for a dead one's
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.posix_fallocate(self._fd, 0, _SIZE)  # a hole that cannot be filled would kill the process
            self._map = mmap.mmap(self._fd, _SIZE)
        except OSError as e:
            log.warning("this process counts for itself alone: %s", os.strerror(e.errno or 0))
            self._map = mmap.mmap(-1, _SIZE)

    def add(self, name: str, amount: float = 1.0) -> None:
        """Add to the counter `name`, labels included: `artstore_requests_total{status="200"}`. Never raises."""
        with self._lock:
            place = self._places.get(name)
            if place is None:
                place = self._make(name)
                if place is None:
                    return
            (value,) = struct.unpack_from("d", self._map, place)
            struct.pack_into("d", self._map, place, value + amount)

    def _make(self, name: str) -> int | None:
        raw = name.encode()
        if len(raw) > VALUE - 2 or len(self._places) == RECORDS:
            return None
        begin = len(self._places) * RECORD
        self._map[begin + 2 : begin + 2 + len(raw)] = raw
        struct.pack_into("H", self._map, begin, len(raw))  # last: a reader sees the record or none
        self._places[name] = begin + VALUE
        return begin + VALUE

    def totals(self) -> dict[str, float]:
        """What all processes have counted together, by name."""
        with self._exclusive():
            self._inherit()
            found: dict[str, float] = defaultdict(float)
            for name, value in _records(self._map[:]):
                found[name] += value
            for path in self._others():
                try:
                    for name, value in _records(path.read_bytes()):
                        found[name] += value
                except OSError:
                    continue
        return dict(sorted(found.items()))

    def _inherit(self) -> None:
        """Take over what the dead have counted."""
        for path in self._others():
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left = file.read()
                    path.unlink()
            except OSError:  # alive, or somebody was faster
                continue
            for name, value in _records(left):
                self.add(name, value)

    def _others(self) -> list[Path]:
        try:
            return sorted(
                p for p in self._directory.iterdir() if p not in (self._path, self._directory / "lock")
            )
        except OSError:
            return []

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """A lock between processes, as far as it can be had."""
        fd = -1
        try:
            fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            log.debug("no lock for the counters")
        try:
            yield
        finally:
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Let the counters go: somebody else takes them over."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # the mapping has a descriptor of its own
            os.close(fd)


def _records(raw: bytes) -> Iterator[tuple[str, float]]:
    for begin in range(0, len(raw) - RECORD + 1, RECORD):
        (length,) = struct.unpack_from("H", raw, begin)
        if not 0 < length <= VALUE - 2:
            return
        (value,) = struct.unpack_from("d", raw, begin + VALUE)
        yield raw[begin + 2 : begin + 2 + length].decode("utf-8", "replace"), value
