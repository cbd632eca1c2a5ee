"""The backend `crypt`: wraps another backend, and encrypts the data.

Sidecars stay readable, apart from the key of the data, which a master key wraps. Sizes and digests are those of the
plain bytes.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr

from artstore.errors import ConfigError, Damaged, NotFound, PreconditionFailed, Unavailable
from artstore.ids import Key
from artstore.spi import (
    API,
    Backend,
    Context,
    Entry,
    Reader,
    Recoverable,
    RecoverableBackend,
    Recovered,
    Rekeyed,
)
from artstore_crypt import envelope
from artstore_crypt.frames import CryptReader, CryptWriter, sealed_size
from artstore_crypt.keys import KEY_SIZE, Keyring, Wrapped

log = logging.getLogger("artstore.crypt")

KEY_IDS_DOCUMENT = "crypt.json"
"""The document that lists the master keys that the store needs. An element starts only if it has them all."""


def _require_key(text: SecretStr) -> SecretStr:
    try:
        if len(base64.b64decode(text.get_secret_value(), validate=True)) == KEY_SIZE:
            return text
    except ValueError:
        pass
    raise ValueError("must be 32 bytes in base64; openssl rand -base64 32 makes them")


def _split_words(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


MasterKey = Annotated[SecretStr, AfterValidator(_require_key)]


class CryptBackend(Backend, Recoverable):
    """Encrypts data and puts its key into the sidecar. All other methods call the inner backend.

    Data is durable, and changes are atomic, when the inner backend says so.
    """

    API: ClassVar[int] = API

    class Settings(BaseModel, extra="forbid"):
        """`[backend.crypt]`"""

        inner: str = Field(
            "local", description="The backend that stores the files. It has its own table of settings."
        )
        key: MasterKey = Field(description="32 bytes in base64.")
        old_keys: Annotated[list[MasterKey], BeforeValidator(_split_words)] = Field(
            [], description="Earlier master keys: they open files, and encrypt nothing."
        )
        allow_plain: bool = Field(False, description="Also serve files that were stored without encryption.")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._inner: RecoverableBackend = context.inner
        present, *older = (base64.b64decode(k.get_secret_value()) for k in (settings.key, *settings.old_keys))
        self._keys = Keyring(present, older)
        self._allow_plain = settings.allow_plain
        limit = self._inner.capabilities.sidecar_limit - envelope.ROOM
        self.capabilities = replace(self._inner.capabilities, sidecar_limit=limit)
        needed = self._read_key_ids()
        missing = sorted(needed - self._keys.ids)
        if missing:
            raise ConfigError(
                f"This store needs the master key {', '.join(missing)}; it has {', '.join(sorted(self._keys.ids))}.",
                place="backend.crypt.key",
                cure="Set that key as key, or add it to old_keys if another key replaces it.",
            )
        if not needed and not self._allow_plain and self._is_first_file_plain():
            # Without this, every file would be refused as damaged, and a repair would quarantine them all.
            raise ConfigError(
                "This store holds files that are not encrypted.",
                place="backend.crypt.allow_plain",
                cure="Set it to true to serve them as well, or use a separate store for encrypted files.",
            )

    def _is_first_file_plain(self) -> bool:
        """Return whether the first file of the store has no key in its sidecar."""
        for directory in self._inner.list_directories():
            for entry in self._inner.list(directory):
                if entry.sidecar:
                    try:
                        return envelope.split(self._inner.read_sidecar(entry.key))[1] is None
                    except (NotFound, Damaged):
                        continue
        return False

    def _read_key_ids(self) -> frozenset[str]:
        """Return the ids of the master keys that the store needs. Raises `ConfigError`, `Unavailable`."""
        document = self._inner.read_document(KEY_IDS_DOCUMENT)
        try:
            return frozenset() if document is None else frozenset(json.loads(document)["key_ids"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{KEY_IDS_DOCUMENT} of the store cannot be read.",
                place=f".artstore/{KEY_IDS_DOCUMENT}",
                cure="Restore it from a backup of the store, or remove it: artstore writes a new one.",
            ) from None

    def _write_key_ids(self, key_ids: frozenset[str]) -> None:
        document = {"schema_version": 1, "key_ids": sorted(key_ids)}
        self._inner.write_document(KEY_IDS_DOCUMENT, json.dumps(document, indent=2).encode())

    # --- encrypted ---

    def create(self, key: Key) -> CryptWriter:
        # At each upload: this process may still use a key that a rekey by another process has removed from the list.
        self._require_listed()
        return CryptWriter(self._inner.create(key), key, self._keys)

    def _require_listed(self) -> None:
        """List the present master key as needed, durably, before data depends on it. Raises `Unavailable`."""
        try:
            needed = self._read_key_ids()
        except ConfigError as e:  # damaged while we serve, not at the start
            raise Unavailable(e.detail) from e
        if self._keys.present not in needed:
            self._write_key_ids(needed | {self._keys.present})

    def read(self, key: Key) -> Reader:
        try:
            sidecar, member = envelope.split(self._inner.read_sidecar(key))
        except NotFound:
            if not self._allow_plain:
                raise
            return self._inner.read(key)
        if member is None:
            if not self._allow_plain:
                # Else an attacker could remove the key from a sidecar and replace the data.
                raise Damaged(
                    f"The data of {key} is not encrypted, and backend.crypt.allow_plain does not allow that."
                )
            return self._inner.read(key)
        wrapped = Wrapped.parse(member, key)
        data_key = self._keys.unwrap(wrapped, key=key, file_id=envelope.file_id(sidecar))
        reader = self._inner.read(key)
        if reader.size != sealed_size(wrapped.size):
            reader.close()
            raise Damaged(
                f"The data of {key} was truncated or extended: it has {reader.size} bytes in the store."
            )
        return CryptReader(reader, key, data_key, wrapped.size)

    def read_sidecar(self, key: Key) -> bytes:
        return envelope.split(self._inner.read_sidecar(key))[0]

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        self._change(
            key,
            if_match,
            lambda stored, member: self._inner.replace_sidecar(
                key, envelope.join(sidecar, member), if_match=stored
            ),
        )

    def delete(self, key: Key, *, if_match: bytes) -> None:
        self._change(key, if_match, lambda stored, _: self._inner.delete(key, if_match=stored))

    def _change(self, key: Key, if_match: bytes, change: Callable[[bytes, bytes | None], None]) -> None:
        """Call `change` with the stored sidecar and its wrapped key, if the sidecar without that key is `if_match`."""
        while True:
            current = self._inner.read_sidecar(key)
            sidecar, member = envelope.split(current)
            if sidecar != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            try:
                return change(current, member)
            except PreconditionFailed:
                continue  # perhaps a rekey only wrapped the key again

    def rekey(self) -> Iterator[Rekeyed]:
        self._require_listed()
        done = True
        for directory in self._inner.list_directories():
            for entry in self._inner.list(directory):
                if entry.sidecar:
                    try:
                        outcome = self._rekey(entry.key)
                    except NotFound:  # deleted meanwhile
                        continue
                    except Damaged as e:
                        log.error("%s", e.detail)
                        outcome = "damaged"
                    # Another process may still add files with the old key: only a run without a renewal is the last.
                    done = done and outcome in ("present", "plain")
                    yield outcome
        if done:
            self._write_key_ids(frozenset({self._keys.present}))

    def _rekey(self, key: Key) -> Rekeyed:
        while True:
            current = self._inner.read_sidecar(key)
            sidecar, member = envelope.split(current)
            if member is None:
                return "plain"
            wrapped = Wrapped.parse(member, key)
            if wrapped.key_id == self._keys.present:
                return "present"
            file_id = envelope.file_id(sidecar)
            data_key = self._keys.unwrap(wrapped, key=key, file_id=file_id)
            renewed = self._keys.wrap(data_key, key=key, file_id=file_id, size=wrapped.size)
            try:
                self._inner.replace_sidecar(key, envelope.join(sidecar, renewed.encode()), if_match=current)
            except PreconditionFailed:  # changed meanwhile
                continue
            return "renewed"

    # --- passed on ---

    def delete_data(self, key: Key) -> None:
        self._inner.delete_data(key)

    def list_tombstones(self) -> Iterator[Key]:
        return self._inner.list_tombstones()

    def purge(self, key: Key) -> None:
        self._inner.purge(key)

    def quarantine(self, key: Key) -> None:
        self._inner.quarantine(key)

    def list(self, directory: str) -> Iterator[Entry]:
        return self._inner.list(directory)

    def age(self, key: Key) -> float:
        return self._inner.age(key)

    def list_directories(self, since: str = "") -> Iterator[str]:
        return self._inner.list_directories(since)

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        return self._inner.in_progress(key)

    def recover(self) -> Iterator[Recovered]:
        return self._inner.recover()

    def resolve(self, key: Key) -> bool:
        return self._inner.resolve(key)

    def is_sole_writer(self) -> bool:
        return self._inner.is_sole_writer()

    def read_document(self, name: str) -> bytes | None:
        return self._inner.read_document(name)

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        self._inner.write_document(name, document, if_absent=if_absent, if_match=if_match)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()

    def check(self, *, writing: bool) -> None:
        self._inner.check(writing=writing)

    def close(self) -> None:
        self._inner.close()
