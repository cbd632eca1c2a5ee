"""API keys. The file has only their hashes: with the file alone, nobody can call the element.

A line of JSON for each key: {"sha256": "...", "user": "ivanov", "scopes": ["files:read"], "until": 1767225600}
"""

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field, ValidationError

from artstore.errors import ConfigError, InvalidField, Unauthorized, Unavailable
from artstore.spi import TOKEN_ROLES, Auth, Context, Principal, SupportsIssue, is_user_name


class ApiKey(BaseModel, extra="forbid"):
    """A line of the file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    user: str
    scopes: frozenset[str] = frozenset()
    until: float | None = None
    """Unix time."""


class KeysAuth(Auth, SupportsIssue):
    """A key is 256 random bits, so it cannot be found from a plain hash of it."""

    API: ClassVar[int] = 1

    class Settings(BaseModel, extra="forbid"):
        """`[auth.keys]`"""

        file: Path | None = None
        """The keys, one a line; by default `keys.jsonl` in the state of the element."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._file = settings.file or context.state / "keys.jsonl"
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._keys: list[ApiKey] = []
        try:
            self._read()
        except Unavailable as e:
            raise ConfigError(e.detail, place="auth.keys.file") from e

    def authenticate(self, token: str) -> Principal:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for key in self._read():  # always all of them: the time that it takes gives nothing away
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthorized("This key is not known.")
        if found.until is not None and time.time() >= found.until:
            raise Unauthorized("This key has expired.")
        return Principal(id=found.user, name=found.user, scopes=found.scopes)

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        """Add a new key to the file: `artstore token --user ivanov --role operator`."""
        if not is_user_name(user):
            raise InvalidField("user", "A user has 1 to 255 characters, none of them a control character.")
        token = secrets.token_urlsafe(32)
        scopes = frozenset[str]().union(*(TOKEN_ROLES.get(role, frozenset()) for role in roles))
        digest = hashlib.sha256(token.encode()).hexdigest()
        key = ApiKey(sha256=digest, user=user, scopes=scopes, until=time.time() + seconds)
        fd = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, key.model_dump_json().encode() + b"\n")
        finally:
            os.close(fd)
        return token

    def check(self) -> None:
        self._read()

    def _read(self) -> list[ApiKey]:
        """Return the keys; the file is read again when it has changed. Raises `Unavailable`."""
        with self._lock:
            try:
                stat = self._file.stat()
                version = (stat.st_mtime_ns, stat.st_size)
                if version != self._version:
                    lines = self._file.read_text(encoding="utf-8").splitlines()
                    self._keys = [ApiKey.model_validate(json.loads(line)) for line in lines if line.strip()]
                    self._version = version
            except FileNotFoundError:
                self._keys, self._version = [], None
            except (OSError, ValueError, ValidationError) as e:
                raise Unavailable(f"The file of keys cannot be read: {type(e).__name__}.") from e
            return self._keys
