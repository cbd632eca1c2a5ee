"""Where the wrapped data key lies: in the sidecar, as its first member, unseen by the kernel.

What the kernel wrote stays as it is to the byte, so taking the member out gives it back, and a sidecar can still be
compared with what it was.
"""

from __future__ import annotations

import json
import re

from artstore.attr import SIDECAR_LIMIT
from artstore.errors import InvalidField
from artstore_crypt.keys import Wrapped

_MEMBER = re.compile(rb'\A(\{?)\n  "crypt": (\{[^{}]*\}),')
ROOM = len(b'\n  "crypt": ,') + len(Wrapped(key_id="0" * 16, size=2**63, data_key="0" * 80).encode())
"""Bytes of a sidecar that the key takes, at most."""


def join(sidecar: bytes, member: bytes | None) -> bytes:
    """The sidecar with the key in it. Raises `InvalidField` when the two are too long together."""
    if member is None:
        return sidecar
    brace = sidecar.startswith(b"{")
    joined = b'%s\n  "crypt": %s,%s' % (sidecar[:brace], member, sidecar[brace:])
    if len(joined) > SIDECAR_LIMIT:
        most = SIDECAR_LIMIT - (len(joined) - len(sidecar))
        raise InvalidField(
            "metadata", f"Metadata and names need {len(sidecar)} bytes; {most} is the limit here."
        )
    return joined


def split(joined: bytes) -> tuple[bytes, bytes | None]:
    """The sidecar as the kernel wrote it, and the key; None when there is none."""
    found = _MEMBER.match(joined)
    if found is not None:
        return found[1] + joined[found.end() :], found[2]
    # Perhaps a person, or a tool of theirs, laid it out anew.
    told = _load(joined) if b'"crypt"' in joined else None
    if not isinstance(told, dict) or "crypt" not in told:
        return joined, None
    member = json.dumps(told.pop("crypt")).encode()
    return json.dumps(told, indent=2, ensure_ascii=False).encode(), member


def file_id(sidecar: bytes) -> str:
    """The id that a sidecar speaks of, or nothing."""
    told = _load(sidecar)
    return str(told.get("file_id", "")) if isinstance(told, dict) else ""


def _load(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
