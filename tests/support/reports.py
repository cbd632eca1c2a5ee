"""What a child process reports to its test: lines of JSON in a file, durable against the death of the child."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: str | Path, line: Any) -> None:
    """Append one line to the report."""
    with open(path, "a", encoding="utf-8") as report:
        report.write(json.dumps(line) + "\n")


def read(path: Path) -> list[Any]:
    """Return the lines of a report; none when the child wrote nothing."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
