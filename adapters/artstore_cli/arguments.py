"""The types of command-line arguments, for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the type of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= (most or int(text)):
            upto = f" to {most}" if most else " on"
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}{upto}, not {text!r}")
        return int(text)

    return parse


def date(text: str) -> datetime:
    """Return a date or a time, in UTC unless the text names a zone. argparse reports the `ValueError`."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def directory(text: str) -> Path:
    """Return a path. An empty text is refused: it may be a variable that is not set, and would be this directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)
