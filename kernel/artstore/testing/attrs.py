"""Valid attrs and contexts for suites."""

from __future__ import annotations

import uuid
from itertools import count
from pathlib import Path
from typing import Any

from artstore.attr import Attr
from artstore.spi import Context

_numbers = count(1)


def make_attr(**changes: Any) -> Attr:
    """Return a valid `Attr` with an id of its own. `changes` replaces or adds fields."""
    file_id = str(changes.get("file_id") or uuid.UUID(int=(0x0194567E8C3A7 << 80) + next(_numbers)))
    fields: dict[str, Any] = {
        "file_id": file_id,
        "original_filename": "report.pdf",
        "storage_filename": f"report_ivanov_20250111T153045_{file_id[-8:]}.pdf",
        "storage_path": "2025/01/11/15",
        "size": 12,
        "content_type": "application/pdf",
        "sha256": "0" * 64,
        "uploaded_by": "ivanov",
        "uploaded_by_id": "42",
        "uploaded_at": "2025-01-11T15:30:45.123Z",
        "updated_at": "2025-01-11T15:30:45.123Z",
        "revision": 1,
    }
    return Attr.model_validate(fields | changes)


def make_context(home: Path) -> Context:
    """Make the directories of an element in `home`, and return the context of its providers."""
    context = Context(home=home, files=home / "files", state=home / "state")
    context.files.mkdir(parents=True, exist_ok=True)
    context.state.mkdir(exist_ok=True)
    return context
