"""Issues tokens, for `artstore token`, with the private key of the element."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import RSAKey

from artstore.errors import ConfigError, InvalidField
from artstore_jwt.claims import MAX_TIME, is_valid_name
from artstore_jwt.keys import KeySet
from artstore_jwt.parsing import pem_private_key


def load_private_key(path: Path | None, keys: KeySet) -> RSAKey:
    """Return the key to sign with, under the `kid` by which the verifying side knows it. Raises `ConfigError`."""
    if path is None:
        raise ConfigError(
            "This element has no private key: tokens come from the issuer whose public keys it trusts.",
            place="auth.jwt",
            cure="Get a token there, or set private_key_file.",
        )
    try:
        key = pem_private_key(path.read_bytes())
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
            cure="Name a file with an RSA private key in PEM.",
        ) from None
    thumbprint = key.thumbprint()
    known = next((k for k in keys.keys if k.key.thumbprint() == thumbprint), None)
    if known is None:
        raise ConfigError(
            f"{path} does not belong to a public key that this element trusts: its tokens would be refused.",
            place="auth.jwt",
            cure="Name the private key that belongs to the public one.",
        )
    return RSAKey.import_key(key.as_dict(private=True), {"kid": known.kid or thumbprint})


def sign_token(
    key: RSAKey,
    *,
    user: str,
    roles: Iterable[str],
    seconds: int,
    now: float,
    issuer: str | None,
    audience: str | None,
) -> str:
    """Return a signed token, valid for at least `seconds` and less than one second more. Raises `InvalidField`."""
    if not is_valid_name(user):
        raise InvalidField("user", "A user has 1 to 255 characters, none of them a control character.")
    roles = list(roles)
    if not all(map(is_valid_name, roles)):
        raise InvalidField("roles", "A role has 1 to 255 characters, none of them a control character.")
    ends = math.ceil(now + seconds)
    if seconds < 1 or ends >= MAX_TIME:
        raise InvalidField(
            "seconds", "A token is valid for at least one second, and not after the year 9999."
        )
    claims: dict[str, Any] = {
        "sub": user,
        "name": user,
        "roles": roles,
        "iat": int(now),
        "exp": ends,
        "jti": secrets.token_hex(16),
    }
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    header = {"alg": "RS256", "typ": "JWT", "kid": str(key.kid)}
    payload = json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode()
    return jws.serialize_compact(header, payload, key, algorithms=["RS256"])
