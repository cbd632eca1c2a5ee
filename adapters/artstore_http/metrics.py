"""Counters that all processes of an element share, and that survive the end of each process.

    <home>/state/metrics/<pid>-<random>      the counters of one process, mapped; an owned file

A record is 128 bytes: a length, the name with its labels, and the value as a double at the end. The process that next
reads the totals adds the counters of dead processes to its own and removes their files: no count is lost, and files
do not pile up.
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

from artstore.posix import OwnedFile

log = logging.getLogger("artstore.metrics")

RECORD, VALUE = 128, 120
"""Bytes of a record, and where its value begins."""
RECORDS = 1024
"""Counters of one process, at most. Those beyond are not counted."""
_SIZE = RECORD * RECORDS


class Metrics:
    """The counters of this process, and the totals of all processes. Every method may be called from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._file: OwnedFile | None = None
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._file = OwnedFile.create(self._path)
            os.posix_fallocate(
                self._file.fd, 0, _SIZE
            )  # writing to a hole of a full disk would kill the process
            self._map = mmap.mmap(self._file.fd, _SIZE)
        except OSError as e:
            log.warning("the counters of this process are not shared: %s", os.strerror(e.errno or 0))
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
        """Return the sum over all processes, by name. Never raises."""
        with self._exclusive():
            self._take_over()
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

    def _take_over(self) -> None:
        """Add the counters of dead processes to those of this one, and remove their files."""
        for path in self._others():
            try:
                left = OwnedFile.seize(path)
                if left is None:  # its process lives
                    continue
                try:
                    raw = path.read_bytes()
                    left.remove()
                finally:
                    left.close()
            except OSError:
                continue
            for name, value in _records(raw):
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
        """Hold the lock of the directory. Where that fails, go on without it: a sum may then miss or repeat a count."""
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
        """Give up the counters: another process takes them over. A second call has no effect."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                fcntl.flock(
                    file.fd, fcntl.LOCK_UN
                )  # the mapping keeps a descriptor of its own, and with it the lock
            file.close()


def _records(raw: bytes) -> Iterator[tuple[str, float]]:
    for begin in range(0, len(raw) - RECORD + 1, RECORD):
        (length,) = struct.unpack_from("H", raw, begin)
        if not 0 < length <= VALUE - 2:
            return
        (value,) = struct.unpack_from("d", raw, begin + VALUE)
        yield raw[begin + 2 : begin + 2 + length].decode("utf-8", "replace"), value
