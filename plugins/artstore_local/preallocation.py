"""Blocks that a large upload takes before it writes them: on ext4 writing 1 GiB then costs up to a third less.

Elsewhere it brings nothing (XFS does as much by itself) or harm (btrfs compresses nothing that was taken so).
"""

from __future__ import annotations

import ctypes
import os

AHEAD = 16 << 20
"""Bytes that one upload may take ahead: fewer would lie scattered among those of others, on a disk that turns."""
FIRST = 1 << 20
"""Bytes that an upload has written before it takes any; and never takes more ahead than it has written."""
ROOM = 1 << 30
"""Bytes that are free while any are taken: a volume that is nearly full has none to lend."""
_EXT4 = 0xEF53
_KEEP_SIZE = 1


def _load_fallocate() -> ctypes._NamedFuncPointer | None:
    """For `os.posix_fallocate` the file would end where the blocks do."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


_fallocate = _load_fallocate()


def _is_ext4(fd: int) -> bool:
    found = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).fstatfs(fd, found) != 0:
        return False
    return ctypes.c_long.from_buffer(found).value == _EXT4


class Ahead:
    """What the uploads of this process have taken; `directory`: a descriptor on the volume, -1 for none."""

    def __init__(self, directory: int) -> None:
        self._worth_it = directory >= 0 and _fallocate is not None and _is_ext4(directory)
        self._files: set[Advance] = set()

    def begin(self, fd: int) -> Advance:
        """For a new file."""
        return Advance(fd, self._files, self._worth_it)

    def unwritten(self) -> int:
        """Bytes that are taken and hold nothing yet: each is written or given back soon."""
        return sum(file.unwritten for file in tuple(self._files))


class Advance:
    """The blocks behind the end of one file, until `over`. Where none can be had, the file does without."""

    def __init__(self, fd: int, files: set[Advance], worth_it: bool) -> None:
        self._fd = fd
        self._files = files
        self._goes_on = worth_it
        self.unwritten = 0

    def reach(self, size: int, more: int) -> None:
        """`more` bytes are about to be written at the end of the file, which has `size`. Never raises."""
        if self.unwritten < more and self._goes_on and size >= FIRST:
            self._goes_on = self._take(size + self.unwritten, more - self.unwritten + min(size, AHEAD))
        self.unwritten = max(0, self.unwritten - more)

    def _take(self, start: int, length: int) -> bool:
        try:
            volume = os.fstatvfs(self._fd)
        except OSError:
            return False
        if volume.f_bavail * volume.f_frsize < ROOM + length:
            return False
        self._files.add(self)
        if _fallocate is None or _fallocate(self._fd, _KEEP_SIZE, start, length) != 0:
            return False  # some of it may have been taken all the same
        self.unwritten += length
        return True

    def give_back(self, size: int) -> None:
        """The file, which has `size`, is whole: no block is left behind its end. Raises `OSError`."""
        if self in self._files:
            os.ftruncate(self._fd, size)
            self.over()

    def over(self) -> None:
        """The file is whole, or goes."""
        self._goes_on = False
        self.unwritten = 0
        self._files.discard(self)
