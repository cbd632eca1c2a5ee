"""What the claims of a token mean: who the caller is, what they may do, and when the token is valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from artstore.errors import Unauthorized
from artstore.spi import Principal, is_user_name
from artstore_jwt.rights import Rights
from artstore_jwt.signing_key import ALGORITHMS

MAX_TIME = 253402300800.0
"""Unix time of the year 10000. A later one is a mistake: most often milliseconds in place of seconds."""
_CLOCK_SKEW = 60.0
"""Seconds that `iat` may lie in the future, besides the leeway."""
_ACCESS = frozenset({"access", "access_token", "bearer", "at+jwt", "application/at+jwt"})
_ANY = frozenset({"jwt", "application/jwt"})
"""Types that say only that the token is a JWT."""
_NOT_ACCESS = frozenset({"refresh", "refresh_token", "offline", "id", "id_token", "logout"})
_ID_TOKEN = ("at_hash", "c_hash", "events")
"""Claims that tokens for other uses have, and access tokens have not: id tokens (OpenID Connect Core, 3.3.2.11), and
logout tokens and other security events (RFC 8417)."""
_ACCESS_CLAIMS = ("azpacr", "appidacr", "idtyp", "gty")
"""Claims that only access tokens have, of Entra ID and Auth0: those for a program may have no scope."""
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


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a token says. `is_access`: its type is that of an access token."""

    alg: str
    kid: str | None
    is_access: bool


def check_header(header: dict[str, Any]) -> Header:
    """Return what the header says. Raises `Unauthorized` when it is not that of an access token."""
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise Unauthorized(
            f"The token's algorithm is not allowed: it must be {' or '.join(ALGORITHMS)}, as the key is."
        )
    if "crit" in header or "b64" in header:
        raise Unauthorized("The token asks for an extension that is not understood (crit).")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.lower() not in {"jwt", "at+jwt", "application/at+jwt"}:
        raise Unauthorized("The token is of another type: an access token is needed.")
    kid = header.get("kid")
    if not isinstance(kid, str | None):
        raise Unauthorized("The token's kid must be a string.")
    return Header(alg, kid, typ.lower() in _ACCESS)


def check_claims(
    claims: dict[str, Any],
    header: Header,
    rights: Rights,
    *,
    issuer: str | None,
    audience: str | None,
    leeway: float,
    now: float,
) -> Grant:
    """Return what the token grants. Raises `Unauthorized` unless it is a valid access token for this element.

    A claim that is null counts as absent, but for those that say what the token is for.
    """
    _check_use(claims, header, rights)
    claims = {name: value for name, value in claims.items() if value is not None}
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_user_name(subject):
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
    scopes = rights.scopes_of(claims)
    return Grant(Principal(id=subject, name=_name(claims) or subject, scopes=scopes), starts, ends)


def _check_use(claims: dict[str, Any], header: Header, rights: Rights) -> None:
    is_access = header.is_access
    for claim in ("typ", "token_type", "token_use"):
        if claim in claims:
            use = claims[claim]
            if not isinstance(use, str) or use.lower() not in _ACCESS | _ANY:
                raise Unauthorized(f"The token is of another type ({claim}): an access token is needed.")
            is_access = is_access or use.lower() in _ACCESS
    # `type` is no registered claim and has many meanings: refuse only what is surely another kind of token.
    use = claims.get("type")
    if isinstance(use, str) and use.lower() in _NOT_ACCESS:
        raise Unauthorized("The token is of another type (type): an access token is needed.")
    if not is_access:
        _refuse_id_token(
            {name for name, value in claims.items() if value is not None}, rights.has_scope(claims)
        )


def _refuse_id_token(names: set[str], has_scope: bool) -> None:
    """Raise `Unauthorized` for a token without a type that has the claims of an id token.

    An id token says who logged in at a client; it is no right to call this element. Access tokens of Authentik have the
    `nonce` of the login, but also `azp` together with `uid` or a scope, which its id tokens have not.
    """
    is_access = has_scope or not names.isdisjoint(_ACCESS_CLAIMS) or {"azp", "uid"} <= names
    found = next((c for c in _ID_TOKEN if c in names), None)
    if found is None and "nonce" in names and not (is_access and "azp" in names):
        found = "nonce"
    if found is None and "azp" in names and not is_access:
        found = "azp without scope"
    if found is not None:
        raise Unauthorized(f"The token is an id token ({found}) or the like: an access token is needed.")


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
        if isinstance(name, str) and is_user_name(name) and not _INVISIBLE.intersection(name):
            return name
    return None
