"""The form of our log: one line for each record, whatever text it quotes."""

from __future__ import annotations

import logging
from datetime import datetime
from types import TracebackType

_Failure = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """Formats a record as one line, so that no text from outside forges another one.

    Texts of callers, plugins and other servers come into records: names, reasons, exceptions. A character that cannot
    be printed is escaped (line breaks, terminal sequences, marks of direction); lines of a traceback are indented.
    """

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: _Failure) -> str:
        return "\n".join(f"    {escape(line)}" for line in super().formatException(ei).splitlines())


def escape(text: str) -> str:
    """Return `text` with an escape in place of each character that cannot be printed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
