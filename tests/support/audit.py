"""Looks at a store with eyes of its own: nothing here is shared with recovery."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Files = dict[str, dict[str, Any]]


def audit(home: Path, *, quarantine: bool = False) -> Files:
    """Every file of a store at rest, id -> sidecar. Fails on anything half, left over or still open.

    `quarantine`: there may be something in it, which the caller looks at.
    """
    files = home / "files"
    found: Files = {}
    for path in sorted(p for p in files.rglob("*") if p.is_file() and ".artstore" not in p.parts):
        if path.name.endswith(".attr.json"):
            data = path.with_name(path.name.removesuffix(".attr.json"))
            assert data.is_file(), f"sidecar without data: {path}"
            attr = json.loads(path.read_bytes())
            content = data.read_bytes()
            assert len(content) == attr["size"], f"wrong size: {path}"
            assert hashlib.sha256(content).hexdigest() == attr["sha256"], f"wrong bytes: {path}"
            assert data.name == attr["storage_filename"], path
            assert str(data.parent.relative_to(files)) == attr["storage_path"], path
            assert attr["file_id"] not in found, f"two files of one id: {path}"
            found[attr["file_id"]] = attr
        else:
            assert path.with_name(path.name + ".attr.json").is_file(), f"data without sidecar: {path}"
    internal = files / ".artstore"
    assert list((internal / "tombstones").iterdir()) == []
    assert quarantine or quarantined(home) == []
    left = [p for p in (internal / "staging").rglob("*") if p.is_file() and p.name != "lock"]
    assert left == []
    return found


def quarantined(home: Path) -> list[str]:
    """What recovery moved out of the way, by its place."""
    place = home / "files" / ".artstore" / "quarantine"
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())


def open_intents(home: Path) -> list[dict[str, Any]]:
    """The records of the log that were begun and never ended."""
    begun: dict[str, dict[str, Any]] = {}
    for segment in sorted((home / "state" / "wal").glob("*.jsonl")):
        for line in segment.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # torn by the crash
            if record.get("status") == "pending":
                begun[record["tx"]] = record
            else:
                begun.pop(record.get("tx", ""), None)
    return list(begun.values())
