"""Master keys, and the data keys that they wrap: one data key per file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artstore.errors import Damaged
from artstore.ids import FileId, Key

KEY_SIZE = 32
"""Bytes of a master key and of a data key."""
_NONCE_SIZE = 12
"""Bytes of the nonce of a wrapped key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A data key in a sidecar: wrapped by the master key `key_id`, for data of `size` plain bytes."""

    key_id: str
    size: int
    data_key: str

    @classmethod
    def parse(cls, member: bytes, key: Key) -> Wrapped:
        """Return the wrapped key in `member`. Raises `Damaged` for anything that this version does not write."""
        try:
            found: Any = json.loads(member)
            version = found["version"]
            wrapped = cls(
                key_id=str(found["key_id"]), size=int(found["size"]), data_key=str(found["data_key"])
            )
        except (KeyError, TypeError, ValueError):
            raise Damaged(f"The sidecar of {key} holds no valid key of its data.") from None
        if version != 1 or wrapped.size < 0:
            raise Damaged(
                f"The data of {key} is encrypted in a format that this version does not know (version {version!r})."
            )
        return wrapped

    def encode(self) -> bytes:
        """Return the bytes that `parse` reads."""
        fields = {"version": 1, "key_id": self.key_id, "size": self.size, "data_key": self.data_key}
        return json.dumps(fields).encode()


class Keyring:
    """The present master key, which wraps, and older ones, which only unwrap.

    A data key is wrapped by AES-256-GCM (NIST SP 800-38D) with a random nonce. It is bound to the key, the id and the
    size of its file: in the sidecar of another file it does not open. Random nonces are safe for 2**32 wraps.
    """

    def __init__(self, present: bytes, older: Iterable[bytes] = ()) -> None:
        self.present = key_id(present)
        self._ciphers = {key_id(key): AESGCM(key) for key in (present, *older)}

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all master keys."""
        return frozenset(self._ciphers)

    def wrap(self, data_key: bytes, *, key: Key, file_id: FileId, size: int) -> Wrapped:
        """Wrap a data key with the present master key."""
        nonce = os.urandom(_NONCE_SIZE)
        bound = _binding(self.present, key, file_id, size)
        sealed = nonce + self._ciphers[self.present].encrypt(nonce, data_key, bound)
        return Wrapped(key_id=self.present, size=size, data_key=base64.b64encode(sealed).decode())

    def unwrap(self, wrapped: Wrapped, *, key: Key, file_id: FileId) -> bytes:
        """Return the data key. Raises `Damaged` when it is not of this file, or when its master key is missing."""
        cipher = self._ciphers.get(wrapped.key_id)
        if cipher is None:
            raise Damaged(
                f"The data of {key} needs the master key {wrapped.key_id}, which this element does not have."
            )
        try:
            sealed = base64.b64decode(wrapped.data_key, validate=True)
            bound = _binding(wrapped.key_id, key, file_id, wrapped.size)
            return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], bound)
        except (InvalidTag, ValueError):
            raise Damaged(
                f"The key in the sidecar of {key} does not belong to this data: one of them was changed or moved."
            ) from None


def key_id(key: bytes) -> str:
    """Return a name for a master key that reveals nothing about the key."""
    return hashlib.sha256(b"artstore crypt key id\0" + key).hexdigest()[:16]


def _binding(master: str, key: Key, file_id: FileId, size: int) -> bytes:
    return json.dumps(["artstore crypt", 1, master, key, file_id, size]).encode()
