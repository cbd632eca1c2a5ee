"""Marks by which the processes of one node tell each other that the cache is not whole.

    <home>/state/owed/<pid>-<random>      some row is owed by that process; held by `flock` while it lives

While there is one, a missing row proves nothing, and files are looked for in the tree as well.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from pathlib import Path

from artstore.posix import translate_errors, translate_startup_errors

log = logging.getLogger("artstore.debts")


class Debts:
    """The mark of this process, and those of all."""

    def __init__(self, directory: Path) -> None:
        with translate_startup_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory = directory
        self._mine = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._fd = -1
        self._foreign: set[Path] = set()

    def mark(self) -> None:
        """This process owes a row."""
        if self._fd >= 0:
            return
        try:
            self._fd = os.open(self._mine, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as e:  # a full disk: neighbours learn of it by the log, once this process ends
            log.warning("cannot mark that a row is owed: %s", os.strerror(e.errno or 0))

    def unmark(self) -> None:
        """This process owes nothing any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._mine.unlink(missing_ok=True)
            os.close(fd)

    def close(self) -> None:
        """This process ends; what it still owes is for others, and its mark stays until they have settled it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def anybody(self) -> bool:
        """Whether any process, alive or dead, owes a row."""
        try:
            with os.scandir(self._directory) as marks:
                return any(mark.is_file(follow_symlinks=False) for mark in marks)
        except OSError as e:
            log.warning("cannot see who owes a row: %s", os.strerror(e.errno or 0))
            return True  # in doubt the tree is asked

    def forgive(self) -> None:
        """Remove the marks of dead processes: what they owed was settled by their logs."""
        with translate_errors("The marks of dead processes cannot be removed"):
            self._forgive()

    def _forgive(self) -> None:
        for mark in self._directory.iterdir():
            if mark == self._mine:
                continue
            if mark.is_symlink() or not mark.is_file():
                if mark not in self._foreign:
                    self._foreign.add(mark)
                    log.warning("%s is no mark of ours: nobody minds it", mark)
                continue
            try:
                fd = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
