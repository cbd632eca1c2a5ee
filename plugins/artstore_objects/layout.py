"""Where things lie in a store, and the marker that takes the place of a sidecar for good.

<directory>/<name>                        data
<directory>/<name>.attr.json              the register of the key: absent -> sidecar -> marker, or absent -> marker
.artstore/trash/<key>~<deletion>          a deletion begun; it took place when the marker names it
.artstore/graves/<key>                    a marker that goes after the grace
.artstore/quarantine/<random>/<key>       what was broken
.artstore/<name>                          documents of the element
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from artstore.attr import SIDECAR_SUFFIX
from artstore.ids import Key
from artstore.spi import INTERNAL, split_key

TRASH = f"{INTERNAL}/trash/"
GRAVES = f"{INTERNAL}/graves/"
QUARANTINE = f"{INTERNAL}/quarantine/"

MARKER_SIZE = 4099
"""No sidecar is that long, so a listing shows what may be a marker."""


def register(key: Key) -> str:
    """The name under which the sidecar of `key` lies, or the marker in its place."""
    split_key(key)
    return key + SIDECAR_SUFFIX


class Marker(NamedTuple):
    """Why there is no sidecar and never will be. `by` tells one deletion from another."""

    kind: Literal["aborted", "deleted", "quarantined"]
    by: str

    def encode(self) -> bytes:
        """Bytes of a size that tells markers in a listing."""
        text = json.dumps({"artstore": f"no file: {self.kind}", "kind": self.kind, "by": self.by})
        return text.encode().ljust(MARKER_SIZE)


def decode_marker(content: bytes) -> Marker | None:
    """The marker these bytes are, or None: then they are a sidecar, sound or not."""
    if len(content) != MARKER_SIZE:
        return None
    try:
        told = json.loads(content)
        if str(told["artstore"]).startswith("no file: "):
            return Marker(told["kind"], told["by"])
    except (ValueError, KeyError, TypeError):
        pass
    return None
