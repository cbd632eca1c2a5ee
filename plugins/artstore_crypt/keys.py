"""Master keys, and the data key of each file that one of them wraps."""

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
_NONCE_SIZE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A data key as a sidecar carries it: wrapped by the master key `key_id`, for data of `size` plain bytes."""

    key_id: str
    size: int
    data_key: str

    @classmethod
    def parse(cls, member: bytes, key: Key) -> Wrapped:
        """Raises `Damaged` for what this version does not write."""
        try:
            found: Any = json.loads(member)
            version = found["version"]
            wrapped = cls(
                key_id=str(found["key_id"]), size=int(found["size"]), data_key=str(found["data_key"])
            )
        except (KeyError, TypeError, ValueError):
            raise Damaged(f"The sidecar of {key} holds no sound key of its data.") from None
        if version != 1 or wrapped.size < 0:
            raise Damaged(
                f"The data of {key} is encrypted in a way that is unknown here (version {version!r})."
            )
        return wrapped

    def encode(self) -> bytes:
        told = {"version": 1, "key_id": self.key_id, "size": self.size, "data_key": self.data_key}
        return json.dumps(told).encode()


class Keyring:
    """The present master key, which wraps, and older ones, which only unwrap.

    A data key is wrapped by AES-256-GCM (NIST SP 800-38D) under a random nonce, bound to the place, the id and the
    size of its file: in the sidecar of another file it does not open. Random nonces are good for 2**32 wraps.
    """

    def __init__(self, present: bytes, older: Iterable[bytes] = ()) -> None:
        self.present = key_id(present)
        self._ciphers = {key_id(key): AESGCM(key) for key in (present, *older)}

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._ciphers)

    def wrap(self, data_key: bytes, *, key: Key, file_id: FileId, size: int) -> Wrapped:
        nonce = os.urandom(_NONCE_SIZE)
        bound = _bound(self.present, key, file_id, size)
        sealed = nonce + self._ciphers[self.present].encrypt(nonce, data_key, bound)
        return Wrapped(key_id=self.present, size=size, data_key=base64.b64encode(sealed).decode())

    def unwrap(self, wrapped: Wrapped, *, key: Key, file_id: FileId) -> bytes:
        """The data key. Raises `Damaged` when it does not belong to this file, or when its master key is not here."""
        cipher = self._ciphers.get(wrapped.key_id)
        if cipher is None:
            raise Damaged(
                f"The data of {key} is encrypted under the master key {wrapped.key_id}, which this element has not got."
            )
        try:
            sealed = base64.b64decode(wrapped.data_key, validate=True)
            bound = _bound(wrapped.key_id, key, file_id, wrapped.size)
            return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], bound)
        except (InvalidTag, ValueError):
            raise Damaged(
                f"The key in the sidecar of {key} is not that of this data: one of them was changed, or moved here."
            ) from None


def key_id(key: bytes) -> str:
    """A name for a master key that tells nothing of it."""
    return hashlib.sha256(b"artstore crypt key id\0" + key).hexdigest()[:16]


def _bound(master: str, key: Key, file_id: FileId, size: int) -> bytes:
    return json.dumps(["artstore crypt", 1, master, key, file_id, size]).encode()
