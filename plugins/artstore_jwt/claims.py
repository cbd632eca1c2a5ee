"""What the claims of a token say: whether it may be used now, and who speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from artstore.errors import Unauthorized
from artstore.spi import ROLES, SCOPES, Principal

FOREVER = 253402300800.0
"""The year 10000. A later date is no date: most often milliseconds where seconds belong."""
_FUTURE = 60.0
_MAX_NAME = 255
_ACCESS = frozenset({"access", "access_token", "bearer", "jwt", "at+jwt", "application/at+jwt"})
_NOT_ACCESS = frozenset({"refresh", "refresh_token", "offline", "id", "id_token", "logout"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# Besides what attr.json cannot hold: marks with which one name passes for another.
_HIDING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A principal and when it may speak: from `starts` on, until just before `ends` (Unix time)."""

    principal: Principal
    starts: float
    ends: float

    def at(self, now: float) -> Principal:
        if now >= self.ends:
            raise Unauthorized("The token has expired.")
        if now < self.starts:
            raise Unauthorized("The token is not valid yet.")
        return self.principal


def check_header(header: dict[str, Any]) -> str | None:
    """The `kid`, once the header is one that we take."""
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


def accept(
    claims: dict[str, Any], *, issuer: str | None, audience: str | None, leeway: float, now: float
) -> Accepted:
    """Who speaks, and until when. Raises `Unauthorized` for anything but a sound access token for us."""
    _check_use(claims)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not storable(subject):
        raise Unauthorized(
            "The token must name its subject (sub), in at most 255 characters, none a control."
        )
    ends = _time(claims, "exp")
    if ends is None:
        raise Unauthorized("The token must say when it expires (exp).")
    starts = (_time(claims, "nbf") or 0.0) - leeway
    made = _time(claims, "iat")
    if made is not None and made > now + leeway + _FUTURE:
        raise Unauthorized("The token was issued in the future (iat): compare the clocks.")
    if issuer is not None and claims.get("iss") != issuer:
        raise Unauthorized("The token comes from another issuer (iss).")
    if audience is not None:
        meant = claims.get("aud")
        if not (meant == audience or (isinstance(meant, list) and audience in meant)):
            raise Unauthorized("The token is meant for another audience (aud).")
    scopes = _scopes(claims)
    return Accepted(Principal(id=subject, name=_name(claims) or subject, scopes=scopes), starts, ends)


def storable(name: str) -> bool:
    """Whether `name` can name an uploader: 1 to 255 characters, none of them a control."""
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
    # `type` is no registered claim and holds all sorts of things: refused is what surely is another token.
    use = claims.get("type")
    if isinstance(use, str) and use.lower() in _NOT_ACCESS:
        raise Unauthorized("The token is of another type (type): an access token is needed.")


def _time(claims: dict[str, Any], claim: str) -> float | None:
    if claim not in claims:
        return None
    value = claims[claim]
    # A bool is an int to Python. The range is compared first: a huge int has no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < FOREVER:
        raise Unauthorized(f"The token's {claim} must be a time in seconds since 1970.")
    return float(value)


def _name(claims: dict[str, Any]) -> str | None:
    for claim in ("name", "preferred_username", "username"):
        name = claims.get(claim)
        if isinstance(name, str) and storable(name) and not _HIDING.intersection(name):
            return name
    return None


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    roles = {*_one(claims, "role"), *_many(claims, "roles")}
    scopes = {*_words(claims, "scope"), *_many(claims, "scopes")}
    return SCOPES & scopes.union(*(ROLES.get(r, frozenset()) for r in roles))


def _one(claims: dict[str, Any], claim: str) -> list[str]:
    value = claims.get(claim, "")
    if not isinstance(value, str):
        raise Unauthorized(f"The token's {claim} must be a string.")
    return [value]


def _words(claims: dict[str, Any], claim: str) -> list[str]:
    return _one(claims, claim)[0].split(" ")


def _many(claims: dict[str, Any], claim: str) -> list[str]:
    value = claims.get(claim, [])
    if isinstance(value, str):
        return value.split(" ")
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise Unauthorized(f"The token's {claim} must be a list of strings.")
    return value
