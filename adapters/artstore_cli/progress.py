"""A progress bar for long work on a terminal: the rate, and the time left where the total is known."""

from __future__ import annotations

import time
from typing import TextIO

_INTERVAL = 0.2
"""Seconds between two drawings."""
_WIDTH = 24
"""Characters of the bar between its brackets."""


class Bar:
    """One line that is drawn again and again. Where `stream` is no terminal, nothing is drawn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._draws = stream.isatty()
        self._started = self._drawn = time.monotonic()

    def draw(self, files: int, total: int | None, size: int = 0) -> None:
        """Show that `files` of `total` are done and `size` bytes were read. It may be called for every file."""
        at = time.monotonic()
        if self._draws and at - self._drawn >= _INTERVAL:
            self._drawn = at
            self._stream.write("\r\x1b[K" + line(files, total, size, at - self._started))
            self._stream.flush()

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def line(files: int, total: int | None, size: int, seconds: float) -> str:
    """Return the bar as text."""
    rate = files / max(seconds, 0.001)
    parts = [f"{files:,} files", f"{rate:,.0f}/s"]
    if size:
        parts.append(f"{size / max(seconds, 0.001) / (1 << 20):,.0f} MiB/s")
    if total:
        done = min(
            files / total, 1.0
        )  # the total comes from the cache, which may know fewer files than there are
        parts[0] = f"{files:,} of {total:,} files"
        if rate:
            left = max(0, round((total - files) / rate))
            parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return f"[{'#' * round(done * _WIDTH):<{_WIDTH}}] {done:4.0%}  " + "  ".join(parts)
    return "  ".join(parts)
