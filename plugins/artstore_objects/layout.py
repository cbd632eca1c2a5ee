"""Names of the objects in a store, and the marker that replaces a sidecar for good.

<directory>/<name>                           data
<directory>/<name>.attr.json                 the sidecar of the key, or a marker in its place
.artstore/tombstones/<key>~<deletion>        a deletion that was started; it happened if the marker names it
.artstore/expiring/<key>                     this key has a marker, which is removed after the retention
.artstore/quarantine/<random>/<key>          damaged files
.artstore/uploads/<key>~<writer_id>          an upload that began, where a store leaves parts of it (S3)
.artstore/<name>                             documents of the element
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from artstore.attr import SIDECAR_SUFFIX
from artstore.ids import Key
from artstore.spi import INTERNAL, split_key

TOMBSTONES = f"{INTERNAL}/tombstones/"
EXPIRING = f"{INTERNAL}/expiring/"
QUARANTINE = f"{INTERNAL}/quarantine/"

MARKER_SIZE = 4099
"""Bytes of a marker. No sidecar has this size, so the sizes in a listing show which objects may be markers."""
READ_LIMIT = 8192
"""Bytes that are read of a sidecar or a marker: more than either may have."""


def sidecar_name(key: Key) -> str:
    """Return the name of the sidecar of `key`, or of the marker in its place. Raises `NotFound` for an invalid key."""
    split_key(key)
    return key + SIDECAR_SUFFIX


class Marker(NamedTuple):
    """Says why a key has no sidecar and will never have one. `by` identifies the deletion that wrote it."""

    kind: Literal["aborted", "deleted", "quarantined"]
    by: str

    def encode(self) -> bytes:
        """Return `MARKER_SIZE` bytes."""
        text = json.dumps({"artstore": f"no file: {self.kind}", "kind": self.kind, "by": self.by})
        return text.encode().ljust(MARKER_SIZE)


def decode_marker(content: bytes) -> Marker | None:
    """Return the marker that `content` is, or None when it is a sidecar, valid or not."""
    if len(content) != MARKER_SIZE:
        return None
    try:
        fields = json.loads(content)
        if str(fields["artstore"]).startswith("no file: "):
            return Marker(fields["kind"], fields["by"])
    except (ValueError, KeyError, TypeError):
        pass
    return None
