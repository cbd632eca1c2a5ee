"""What a token may do: where its claims hold roles and scopes, and what the names of roles mean here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from artstore.errors import Unauthorized
from artstore.spi import SCOPES, TOKEN_ROLES

ClaimPath = tuple[str, ...]
"""The names that lead to a claim, from the outside in."""

MAX_DEPTH = 8
"""Names of a path."""
_WORD_LISTS = frozenset({"roles", "scope", "scopes", "scp", "permissions"})
"""Names of claims that hold a list of words, so that a text in one of them is such a list (RFC 6749, 3.3). In any other
claim a text is one role: the name of a group may hold spaces, and its words are no roles."""
_DOT = re.compile(r"(?<!\\)\.")


def claim_path(text: str) -> ClaimPath:
    r"""Return the path that a setting names: `realm_access.roles` leads into an object; a URL is one name, and so is
    `a\.b`. Raises `ValueError`."""
    path = (text,) if "://" in text else tuple(p.replace("\\.", ".") for p in _DOT.split(text))
    if not all(path) or len(path) > MAX_DEPTH:
        raise ValueError(
            f"'{text}' names no claim: write names with dots between them, at most {MAX_DEPTH}, or a URL"
        )
    return path


@dataclass(frozen=True, slots=True)
class Rights:
    """Reads scopes out of the claims of a token. What is not known here grants nothing."""

    role_claims: tuple[ClaimPath, ...]
    scope_claims: tuple[ClaimPath, ...]
    role_map: Mapping[str, tuple[str, ...]]
    """Names of roles of the issuer, and the token roles that they mean here, in place of their own meaning."""

    def scopes_of(self, claims: dict[str, Any]) -> frozenset[str]:
        """Return the scopes that a token grants. Raises `Unauthorized` for a claim of a wrong type."""
        scopes = {s for path in self.scope_claims for s in _read(claims, path, words=True)}
        for path in self.role_claims:
            for name in _read(claims, path, words=path[-1] in _WORD_LISTS):
                for role in self.role_map.get(name, (name,)):
                    scopes |= TOKEN_ROLES.get(role, frozenset())
        return SCOPES & scopes

    def has_scope(self, claims: dict[str, Any]) -> bool:
        """Return whether some claim holds scopes. Only access tokens have one."""
        paths = {*self.scope_claims, ("scope",), ("scopes",), ("scp",)}
        return any(_find(claims, path) is not None for path in paths)

    def put_roles(self, claims: dict[str, Any], roles: Iterable[str]) -> bool:
        """Put roles into the claims of a token where they are looked for; return False where no place is free."""
        paths = sorted(self.role_claims, key=lambda path: path != ("roles",))
        path = next((p for p in paths if p[0] not in claims), None)
        if path is None:
            return False
        value: Any = list(roles)
        for name in reversed(path[1:]):
            value = {name: value}
        claims[path[0]] = value
        return True


def _find(claims: dict[str, Any], path: ClaimPath) -> Any:
    """Return the value at `path`; None when there is none, or null on the way."""
    value: Any = claims
    for depth, name in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Unauthorized(f"The token's {'.'.join(path[:depth])} must be an object.")
        value = value.get(name)
    return value


def _read(claims: dict[str, Any], path: ClaimPath, *, words: bool) -> list[str]:
    value = _find(claims, path)
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(" ") if words else [value]
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise Unauthorized(f"The token's {'.'.join(path)} must be a text or a list of texts.")
    return value
