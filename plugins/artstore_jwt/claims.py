"""What the claims of a token mean: who the caller is, what they may do, and when the token is valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from artstore.errors import Unauthorized
from artstore.spi import SCOPES, TOKEN_ROLES, Principal

MAX_TIME = 253402300800.0
"""Unix time of the year 10000. A later one is a mistake: most often milliseconds in place of seconds."""
_CLOCK_SKEW = 60.0
"""Seconds that `iat` may lie in the future, besides the leeway."""
_MAX_NAME = 255
"""Characters of a user or a role."""
_ACCESS = frozenset({"access", "access_token", "bearer", "jwt", "at+jwt", "application/at+jwt"})
_NOT_ACCESS = frozenset({"refresh", "refresh_token", "offline", "id", "id_token", "logout"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# Invisible characters that make one name look like another. Control characters are refused before.
_INVISIBLE = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token grants: to be `principal` from `starts` on until just before `ends` (Unix time)."""

    principal: Principal
    starts: float
    ends: float

    def principal_at(self, now: float) -> Principal:
        """Return the caller. Raises `Unauthorized` when the token is not valid at `now`."""
        if now >= self.ends:
            raise Unauthorized("The token has expired.")
        if now < self.starts:
            raise Unauthorized("The token is not valid yet.")
        return self.principal


def check_header(header: dict[str, Any]) -> str | None:
    """Return the `kid`. Raises `Unauthorized` when the header is not that of an access token with RS256."""
    if header.get("alg") != "RS256":
        raise Unauthorized("The token's algorithm is not allowed: it must be RS256.")
    if "crit" in header or "b64" in header:
        raise Unauthorized("The token asks for an extension that is not understood (crit).")
    if "typ" in header:
        typ = header["typ"]
        if not isinstance(typ, str) or typ.lower() not in _TYPES:
            raise Unauthorized("The token is of another type: an access token is needed.")
    kid = header.get("kid")
    if not isinstance(kid, str | None):
        raise Unauthorized("The token's kid must be a string.")
    return kid


def check_claims(
    claims: dict[str, Any], *, issuer: str | None, audience: str | None, leeway: float, now: float
) -> Grant:
    """Return what the token grants. Raises `Unauthorized` unless it is a valid access token for this element."""
    _check_use(claims)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_valid_name(subject):
        raise Unauthorized(
            "The token must name its subject (sub) in 1 to 255 characters, none of them a control character."
        )
    ends = _time(claims, "exp")
    if ends is None:
        raise Unauthorized("The token must have an expiry (exp).")
    starts = (_time(claims, "nbf") or 0.0) - leeway
    issued = _time(claims, "iat")
    if issued is not None and issued > now + leeway + _CLOCK_SKEW:
        raise Unauthorized("The token was issued in the future (iat): compare the clocks.")
    if issuer is not None and claims.get("iss") != issuer:
        raise Unauthorized("The token comes from another issuer (iss).")
    if audience is not None:
        aud = claims.get("aud")
        if not (aud == audience or (isinstance(aud, list) and audience in aud)):
            raise Unauthorized("The token is meant for another audience (aud).")
    scopes = _scopes(claims)
    return Grant(Principal(id=subject, name=_name(claims) or subject, scopes=scopes), starts, ends)


def is_valid_name(name: str) -> bool:
    """Return whether `name` can be stored as an uploader: 1 to 255 characters, none of them a control character."""
    return (
        0 < len(name) <= _MAX_NAME
        and not name.isspace()
        and not any(c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in name)
    )


def _check_use(claims: dict[str, Any]) -> None:
    for claim in ("typ", "token_type", "token_use"):
        if claim in claims:
            use = claims[claim]
            if not isinstance(use, str) or use.lower() not in _ACCESS:
                raise Unauthorized(f"The token is of another type ({claim}): an access token is needed.")
    # `type` is no registered claim and has many meanings: refuse only what is surely another kind of token.
    use = claims.get("type")
    if isinstance(use, str) and use.lower() in _NOT_ACCESS:
        raise Unauthorized("The token is of another type (type): an access token is needed.")


def _time(claims: dict[str, Any], claim: str) -> float | None:
    if claim not in claims:
        return None
    value = claims[claim]
    # A bool is an int in Python. The range is checked before the conversion: a huge int does not fit into a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_TIME:
        raise Unauthorized(f"The token's {claim} must be a time in seconds since 1970.")
    return float(value)


def _name(claims: dict[str, Any]) -> str | None:
    for claim in ("name", "preferred_username", "username"):
        name = claims.get(claim)
        if isinstance(name, str) and is_valid_name(name) and not _INVISIBLE.intersection(name):
            return name
    return None


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    roles = {*_read_string(claims, "role"), *_read_list(claims, "roles")}
    scopes = {*_read_words(claims, "scope"), *_read_list(claims, "scopes")}
    return SCOPES & scopes.union(*(TOKEN_ROLES.get(r, frozenset()) for r in roles))


def _read_string(claims: dict[str, Any], claim: str) -> list[str]:
    value = claims.get(claim, "")
    if not isinstance(value, str):
        raise Unauthorized(f"The token's {claim} must be a string.")
    return [value]


def _read_words(claims: dict[str, Any], claim: str) -> list[str]:
    return _read_string(claims, claim)[0].split(" ")


def _read_list(claims: dict[str, Any], claim: str) -> list[str]:
    value = claims.get(claim, [])
    if isinstance(value, str):
        return value.split(" ")
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise Unauthorized(f"The token's {claim} must be a list of strings.")
    return value
