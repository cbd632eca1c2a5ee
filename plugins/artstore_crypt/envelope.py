"""Puts the wrapped data key into the sidecar, as its first member, and takes it out again. The kernel never sees it.

Every other byte of the sidecar stays as the kernel wrote it. So removing the member gives the original bytes, and a
sidecar can still be compared with an earlier one.
"""

from __future__ import annotations

import json
import re

from artstore.attr import SIDECAR_LIMIT
from artstore.errors import InvalidField
from artstore.ids import FileId
from artstore_crypt.keys import Wrapped

_MEMBER = re.compile(rb'\A(\{?)\n  "crypt": (\{[^{}]*\}),')
ROOM = len(b'\n  "crypt": ,') + len(Wrapped(key_id="0" * 16, size=2**63, data_key="0" * 80).encode())
"""The most bytes that the key needs in a sidecar."""


def join(sidecar: bytes, member: bytes | None) -> bytes:
    """Return the sidecar with the key in it. Raises `InvalidField` when they are too long together.

    A damaged sidecar, without a brace, gets the key too: `split` returns it as it was.
    """
    if member is None:
        return sidecar
    brace = b"{" if sidecar.startswith(b"{") else b""
    joined = b'%s\n  "crypt": %s,%s' % (brace, member, sidecar.removeprefix(brace))
    if len(joined) > SIDECAR_LIMIT:
        limit = SIDECAR_LIMIT - (len(joined) - len(sidecar))
        raise InvalidField(
            "metadata", f"Metadata and names need {len(sidecar)} bytes; {limit} is the limit here."
        )
    return joined


def split(joined: bytes) -> tuple[bytes, bytes | None]:
    """Return the sidecar as the kernel wrote it, and the key, or None when it has no key."""
    found = _MEMBER.match(joined)
    if found is not None:
        return found[1] + joined[found.end() :], found[2]
    # A person or a tool may have formatted the sidecar differently.
    fields = _load(joined) if b'"crypt"' in joined else None
    if not isinstance(fields, dict) or "crypt" not in fields:
        return joined, None
    member = json.dumps(fields.pop("crypt")).encode()
    return json.dumps(fields, indent=2, ensure_ascii=False).encode(), member


def file_id(sidecar: bytes) -> FileId:
    """Return the file id in a sidecar, or an empty one when there is none."""
    fields = _load(sidecar)
    return FileId(str(fields.get("file_id", "")) if isinstance(fields, dict) else "")


def _load(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
