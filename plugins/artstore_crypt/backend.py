"""The backend `crypt`: another backend, whose data is encrypted on its way in and opened on its way out.

What a sidecar says stays readable, but for the key of its data, which a master key wraps; sizes and digests are
those of the plain bytes.
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

RECORD = "crypt.json"
"""Which master keys the store needs: its element is not started without one of them."""


def _is_key(text: SecretStr) -> SecretStr:
    try:
        if len(base64.b64decode(text.get_secret_value(), validate=True)) == KEY_SIZE:
            return text
    except ValueError:
        pass
    raise ValueError("must be 32 bytes in base64; openssl rand -base64 32 makes them")


def _words(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


MasterKey = Annotated[SecretStr, AfterValidator(_is_key)]


class CryptBackend(Backend, Recoverable):
    """Everything but `create`, `read` and the sidecars is left to the inner backend."""

    API: ClassVar[int] = API

    class Settings(BaseModel, extra="forbid"):
        """`[backend.crypt]`"""

        inner: str = Field(
            "local", description="The backend that keeps the files; its settings in its own table."
        )
        key: MasterKey = Field(description="32 bytes in base64.")
        old_keys: Annotated[list[MasterKey], BeforeValidator(_words)] = Field(
            [], description="Master keys used before; they open, and wrap nothing."
        )
        allow_plain: bool = Field(False, description="Serve files that were stored without encryption, too.")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._inner: RecoverableBackend = context.inner
        present, *older = (base64.b64decode(k.get_secret_value()) for k in (settings.key, *settings.old_keys))
        self._keys = Keyring(present, older)
        self._allow_plain = settings.allow_plain
        limit = self._inner.capabilities.sidecar_limit - envelope.ROOM
        self.capabilities = replace(self._inner.capabilities, sidecar_limit=limit)
        needed = self._needed()
        missing = sorted(needed - self._keys.ids)
        if missing:
            raise ConfigError(
                f"This store needs the master key {', '.join(missing)}; given is {', '.join(sorted(self._keys.ids))}.",
                place="backend.crypt.key",
                cure="Give that key as key, or among old_keys if another is to follow it.",
            )
        if not needed and not self._allow_plain and self._begins_plain():
            # Each of its files would be refused as damaged, and a repair would move them all to quarantine.
            raise ConfigError(
                "This store holds files that are not encrypted.",
                place="backend.crypt.allow_plain",
                cure="Set it to true to serve them, too; or give the encrypted files a store of their own.",
            )

    def _begins_plain(self) -> bool:
        """Whether the first file of the store has no key in its sidecar."""
        for directory in self._inner.list_directories():
            for entry in self._inner.list(directory):
                if entry.sidecar:
                    try:
                        return envelope.split(self._inner.read_sidecar(entry.key))[1] is None
                    except (NotFound, Damaged):
                        continue
        return False

    def _needed(self) -> frozenset[str]:
        document = self._inner.read_document(RECORD)
        try:
            return frozenset() if document is None else frozenset(json.loads(document)["key_ids"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{RECORD} of the store cannot be read.",
                place=f".artstore/{RECORD}",
                cure="Restore it from a backup of the store, or remove it: it is made anew.",
            ) from None

    def _need(self, key_ids: frozenset[str]) -> None:
        document = {"schema_version": 1, "key_ids": sorted(key_ids)}
        self._inner.write_document(RECORD, json.dumps(document, indent=2).encode())

    # --- what is encrypted ---

    def create(self, key: Key) -> CryptWriter:
        # Each time: a rekey elsewhere may have dropped a key that this process, not restarted, still wraps with.
        self._bind()
        return CryptWriter(self._inner.create(key), key, self._keys)

    def _bind(self) -> None:
        try:
            needed = self._needed()
        except ConfigError as e:  # not at start: somebody spoilt it while we serve
            raise Unavailable(e.detail) from e
        if self._keys.present not in needed:
            self._need(needed | {self._keys.present})

    def read(self, key: Key) -> Reader:
        try:
            sidecar, member = envelope.split(self._inner.read_sidecar(key))
        except NotFound:
            if not self._allow_plain:
                raise
            return self._inner.read(key)
        if member is None:
            if not self._allow_plain:
                # Or whoever takes the key out of a sidecar could pass off data of their own.
                raise Damaged(
                    f"The data of {key} is not encrypted, and backend.crypt.allow_plain does not say that it may be."
                )
            return self._inner.read(key)
        wrapped = Wrapped.parse(member, key)
        data_key = self._keys.unwrap(wrapped, key=key, file_id=envelope.file_id(sidecar))
        reader = self._inner.read(key)
        if reader.size != sealed_size(wrapped.size):
            reader.close()
            raise Damaged(
                f"The data of {key} was cut or lengthened: it has {reader.size} bytes in the store."
            )
        return CryptReader(reader, key, data_key, wrapped.size)

    def read_sidecar(self, key: Key) -> bytes:
        return envelope.split(self._inner.read_sidecar(key))[0]

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        self._on(
            key,
            if_match,
            lambda now, member: self._inner.replace_sidecar(
                key, envelope.join(sidecar, member), if_match=now
            ),
        )

    def delete(self, key: Key, *, if_match: bytes) -> None:
        self._on(key, if_match, lambda now, _: self._inner.delete(key, if_match=now))

    def _on(self, key: Key, old: bytes, change: Callable[[bytes, bytes | None], None]) -> None:
        """`change` the sidecar of `key` if it is `old`, with whatever key in it."""
        while True:
            current = self._inner.read_sidecar(key)
            sidecar, member = envelope.split(current)
            if sidecar != old:
                raise PreconditionFailed("The file was changed meanwhile.")
            try:
                return change(current, member)
            except PreconditionFailed:
                continue  # perhaps only the key was wrapped anew

    def rekey(self) -> Iterator[Rekeyed]:
        self._bind()
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
                    # One that was wrapped anew may not have been the last: the next run tells.
                    done = done and outcome in ("present", "plain")
                    yield outcome
        if done:
            self._need(frozenset({self._keys.present}))

    def _rekey(self, key: Key) -> Rekeyed:
        while True:
            current = self._inner.read_sidecar(key)
            sidecar, member = envelope.split(current)
            if member is None:
                return "plain"
            wrapped = Wrapped.parse(member, key)
            if wrapped.key_id == self._keys.present:
                return "present"
            name = envelope.file_id(sidecar)
            data_key = self._keys.unwrap(wrapped, key=key, file_id=name)
            anew = self._keys.wrap(data_key, key=key, file_id=name, size=wrapped.size)
            try:
                self._inner.replace_sidecar(key, envelope.join(sidecar, anew.encode()), if_match=current)
            except PreconditionFailed:  # changed meanwhile
                continue
            return "renewed"

    # --- what is not ---

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
