"""The role `naming`: names that people can read, and the way back from a name."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from artstore.ids import FileId, Key
from artstore.spi.provider import Configurable


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """Where a new file goes. `directory` has `/` between its parts; `filename` has none."""

    directory: str
    filename: str

    @property
    def key(self) -> Key:
        """The key of the file: directory and filename, joined by `/`."""
        return Key(f"{self.directory}/{self.filename}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The parts of a filename that this naming made. `uuid` is the part of the id that the name carries."""

    stem: str
    user: str
    timestamp: str
    uuid: str
    ext: str


class Naming(Configurable, Protocol):
    """Makes names, and finds from a name or an id where a file lies. Pure: no I/O. Called from many threads at once."""

    @abstractmethod
    def name(
        self, *, file_id: FileId, original_filename: str, username: str, at: datetime, attempt: int = 0
    ) -> Name:
        """Return the name of a new file. Never raises on any text.

        The filename with `.attr.json` behind it has at most 230 bytes of UTF-8. Each `attempt` gives another filename
        in the same directory: the kernel counts it up when a name is taken.
        """

    @abstractmethod
    def parse(self, filename: str) -> Parsed | None:
        """Return the parts of `filename`, or None when this naming did not make it. Never raises."""

    @abstractmethod
    def carries(self, filename: str, file_id: FileId) -> bool:
        """Return whether `filename` could be a name of `file_id`. The kernel checks for false positives."""

    @abstractmethod
    def directory_of(self, file_id: FileId) -> str | None:
        """Return the directory that follows from the id alone; None for an id that a caller chose."""

    @abstractmethod
    def directory_at(self, at: datetime) -> str:
        """Return the directory of names made at `at`. Directories sort as their times do."""

    def is_directory(self, path: str) -> bool:
        """Return whether `path` is such a directory or holds some. Never raises.

        False means that what lies there belongs to others: it is left alone when it cannot be read. By default each
        may be.
        """
        return True
