"""An auth with a fixed list of tokens, for tests of other parts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from pydantic import BaseModel

from artstore.errors import InvalidField, Unauthorized
from artstore.spi import API, TOKEN_ROLES, Auth, Context, NoSettings, Principal, SupportsIssue, is_user_name


class StaticAuth(Auth, SupportsIssue):
    """Accepts the tokens of `tokens`, and those that `issue` makes."""

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(
        self,
        settings: BaseModel | None = None,
        context: Context | None = None,
        *,
        tokens: Mapping[str, Principal] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._tokens = {token: (principal, float("inf")) for token, principal in (tokens or {}).items()}

    def authenticate(self, token: str) -> Principal:
        principal, expires = self._tokens.get(token, (None, 0.0))
        if principal is None:
            raise Unauthorized("The token is not known.")
        if self._clock() >= expires:
            raise Unauthorized("The token has expired.")
        return principal

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        if not is_user_name(user):
            raise InvalidField("user", "A user has 1 to 255 characters, none of them a control character.")
        token = secrets.token_urlsafe(16)
        scopes = frozenset[str]().union(*(TOKEN_ROLES.get(role, frozenset()) for role in roles))
        self._tokens[token] = (Principal(id=user, name=user, scopes=scopes), self._clock() + seconds)
        return token
