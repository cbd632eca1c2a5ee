"""A change as a CloudEvent (specification 1.0, JSON format, structured mode)."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from artstore.attr import Attr, timestamp
from artstore.ids import FileId, Key
from artstore.spi import Change

TYPES: dict[Change, str] = {
    "upload": "dev.artstore.file.uploaded",
    "update": "dev.artstore.file.updated",
    "delete": "dev.artstore.file.deleted",
}


def event_id(change: Change, file_id: FileId, key: Key, attr: Attr | None) -> str:
    """Return the id of an event: the same for the same change, in every process and however often it is reported.

    The ids of the events of one file sort in the order of its changes.
    """
    place = hashlib.sha256(key.encode()).hexdigest()[:12]
    step = "deleted" if change == "delete" or attr is None else f"{attr.revision:019d}"
    return f"{file_id}_{place}_{step}"


def encode(change: Change, file_id: FileId, key: Key, attr: Attr | None, *, element_id: str) -> bytes:
    """Return the event. Its `data` is the sidecar of the file, or only its id and place when no more is known."""
    directory, _, filename = key.rpartition("/")
    data = {"file_id": file_id, "storage_path": directory, "storage_filename": filename}
    if attr is not None:
        data = attr.model_dump(mode="json", exclude={"schema_version"})
    at = timestamp(datetime.now(UTC)) if change == "delete" or attr is None else attr.updated_at
    event = {
        "specversion": "1.0",
        "id": event_id(change, file_id, key, attr),
        "source": f"https://artstore.dev/elements/{element_id}",
        "type": TYPES[change],
        "subject": file_id,
        "time": at,
        "datacontenttype": "application/json",
        "data": data,
    }
    return json.dumps(event, ensure_ascii=False).encode()
