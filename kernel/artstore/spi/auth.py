"""The role `auth`: who a bearer token speaks for, and what they may do."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard, runtime_checkable

from artstore.spi.provider import Configurable

FILES_READ = "files:read"
FILES_WRITE = "files:write"
FILES_DELETE = "files:delete"
STORAGE_READ = "storage:read"
STORAGE_WRITE = "storage:write"

TOKEN_ROLES: dict[str, frozenset[str]] = {
    "reader": frozenset({FILES_READ}),
    "user": frozenset({FILES_READ, FILES_WRITE}),
    "operator": frozenset({FILES_READ, FILES_WRITE, FILES_DELETE, STORAGE_READ}),
    "admin": frozenset({FILES_READ, FILES_WRITE, FILES_DELETE, STORAGE_READ, STORAGE_WRITE}),
}
"""The token roles: a token role is a set of scopes. An unknown one has none."""

SCOPES = TOKEN_ROLES["admin"]

_USER_NAME = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
"""Without control characters, line breaks among them, and halves of surrogate pairs."""


def is_user_name(value: object) -> TypeGuard[str]:
    """Return whether `value` can be the id or the name of a principal: a text of 1 to 255 characters that is not blank
    and has no control character, because it is stored with files and written into logs."""
    return isinstance(value, str) and _USER_NAME.fullmatch(value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller. `id` never changes, `name` is shown to people, `scopes` is what the caller may do.

    `is_user_name` holds for id and name. Where it does not, that is a fault of the auth, and the caller is not served.
    """

    id: str
    name: str
    scopes: frozenset[str] = field(default_factory=frozenset)


@runtime_checkable
class Auth(Configurable, Protocol):
    """Authenticates bearer tokens. Every method may be called from many threads at once."""

    @abstractmethod
    def authenticate(self, token: str) -> Principal:
        """Return the caller. Raises `Unauthorized` (a sentence for the caller, no secrets), `Unavailable`."""

    def check(self) -> None:
        """Raise `Unavailable`, with a sentence, unless tokens can be checked now. By default nothing is tried."""
        return

    def close(self) -> None:
        """Release everything. A second call has no effect."""
        return


@runtime_checkable
class SupportsIssue(Protocol):
    """An auth that can make tokens itself (`artstore token`)."""

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        """Return a token for `user` with these token roles, valid for `seconds`. Raises `InvalidField` unless
        `is_user_name(user)`, and `ConfigError` when there is no private key."""
