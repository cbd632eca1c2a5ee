"""Issues tokens, for `artstore token`, with the private key of the element."""

from __future__ import annotations

import base64
import json
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artstore.errors import ConfigError, InvalidField
from artstore.spi import is_user_name
from artstore_jwt.claims import MAX_TIME
from artstore_jwt.keys import KeySet
from artstore_jwt.pem import pem_private_key
from artstore_jwt.rights import Rights
from artstore_jwt.signing_key import SigningKey, sign


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, its algorithm, and the `kid` by which the verifying side knows it."""

    kid: str
    alg: str
    key: SigningKey


def load_signer(path: Path | None, keys: KeySet) -> Signer:
    """Return the key to sign with. Raises `ConfigError`."""
    if path is None:
        raise ConfigError(
            "This element has no private key: tokens come from the issuer whose public keys it trusts.",
            place="auth.jwt",
            cure="Get a token there, or set private_key_file.",
        )
    try:
        alg, key = pem_private_key(path.read_bytes())
    except OSError as e:
        raise ConfigError(
            f"{path} cannot be read: {e.strerror or e}.",
            place="auth.jwt",
            cure="Put the private key there, or run this as the user who may read it.",
        ) from None
    except ValueError as e:
        raise ConfigError(
            f"{path} {e}.",
            place="auth.jwt.private_key_file",
            cure="Name a file with one private key in PEM.",
        ) from None
    thumbprint = key.thumbprint()
    known = next((k for k in keys.keys if k.key.thumbprint() == thumbprint), None)
    if known is None:
        raise ConfigError(
            f"{path} does not belong to a public key that this element trusts: its tokens would be refused.",
            place="auth.jwt",
            cure="Name the private key that belongs to the public one.",
        )
    return Signer(known.kid or thumbprint, alg, key)


def sign_token(
    signer: Signer,
    rights: Rights,
    *,
    user: str,
    roles: Iterable[str],
    seconds: int,
    now: float,
    issuer: str | None,
    audience: str | None,
) -> str:
    """Return a signed token, valid for at least `seconds` and less than one second more. Raises `InvalidField`.

    Raises `ConfigError` when the settings leave no claim for roles.
    """
    if not is_user_name(user):
        raise InvalidField("user", "A user has 1 to 255 characters, none of them a control character.")
    roles = list(roles)
    if not all(map(is_user_name, roles)):
        raise InvalidField("roles", "A role has 1 to 255 characters, none of them a control character.")
    ends = math.ceil(now + seconds)
    if seconds < 1 or ends >= MAX_TIME:
        raise InvalidField(
            "seconds", "A token is valid for at least one second, and not after the year 9999."
        )
    claims: dict[str, Any] = {
        "sub": user,
        "name": user,
        "iat": int(now),
        "exp": ends,
        "jti": secrets.token_hex(16),
    }
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    if not rights.put_roles(claims, roles) and roles:
        raise ConfigError(
            "The roles of a token have no place: role_claims names no claim that is free for them.",
            place="auth.jwt.role_claims",
            cure='Add "roles" to it.',
        )
    header = {"alg": signer.alg, "typ": "JWT", "kid": signer.kid}
    text = f"{_encode(header)}.{_encode(claims)}"
    return f"{text}.{_base64url(sign(signer.alg, text.encode(), signer.key))}"


def _encode(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
