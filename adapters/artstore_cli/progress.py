"""How far long work is, drawn on a terminal: rate, and time left where the total is known."""

from __future__ import annotations

import time
from typing import TextIO

_EVERY = 0.2
_WIDTH = 24


class Bar:
    """One line that is drawn over and over; nothing at all where `stream` is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._draws = stream.isatty()
        self._began = self._drawn = time.monotonic()

    def draw(self, files: int, total: int | None, size: int = 0) -> None:
        """Say that `files` of `total` are done, and `size` bytes were read."""
        at = time.monotonic()
        if self._draws and at - self._drawn >= _EVERY:
            self._drawn = at
            self._stream.write("\r\x1b[K" + line(files, total, size, at - self._began))
            self._stream.flush()

    def clear(self) -> None:
        """Leave nothing of it."""
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def line(files: int, total: int | None, size: int, seconds: float) -> str:
    """The bar as text."""
    rate = files / max(seconds, 0.001)
    parts = [f"{files:,} files", f"{rate:,.0f}/s"]
    if size:
        parts.append(f"{size / max(seconds, 0.001) / (1 << 20):,.0f} MiB/s")
    if total:
        # The cache may know fewer than there are.
        done = min(files / total, 1.0)
        parts[0] = f"{files:,} of {total:,} files"
        if rate:
            left = max(0, round((total - files) / rate))
            parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return f"[{'#' * round(done * _WIDTH):<{_WIDTH}}] {done:4.0%}  " + "  ".join(parts)
    return "  ".join(parts)
