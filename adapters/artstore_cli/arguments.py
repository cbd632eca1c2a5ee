"""What the command line takes, for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within these bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= (most or int(text)):
            upto = f" to {most}" if most else " on"
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}{upto}, not {text!r}")
        return int(text)

    return parse


def date(text: str) -> datetime:
    """A date or a time, in UTC unless it says otherwise; argparse tells of a ValueError."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def directory(text: str) -> Path:
    """A path; an empty one, perhaps a variable that is not set, does not mean this directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)
