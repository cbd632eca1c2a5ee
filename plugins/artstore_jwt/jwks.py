"""Parses JWK sets (RFC 7517), as identity providers publish them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from artstore_jwt.key_material import KeyMaterial
from artstore_jwt.signing_key import MAX_BITS, VerifyKey, signing_key
from artstore_jwt.strict_json import strict_json

_MAX_NUMBER = MAX_BITS // 8 + 1
"""Bytes of a number in a JWK. A longer one is refused before it is converted, which would be slow."""
_COORDINATE = 32
"""Bytes of a coordinate on P-256, and of an Ed25519 key."""


def jwks_keys(raw: bytes) -> KeyMaterial:
    """Return the keys of a JWK set that tokens can be verified with. Raises `ValueError` when there is none.

    A set also holds keys for other purposes (encryption), so an entry that cannot be used does not spoil the others.
    """
    try:
        listed = strict_json(raw).get("keys")
    except ValueError as e:
        raise ValueError(f"is no JWK set ({e})") from None
    if not isinstance(listed, list):
        raise ValueError('is no JWK set (it has no list "keys")')  # noqa: TRY004 - the text is wrong, not the call
    keys: list[VerifyKey] = []
    unused: list[str] = []
    for number, jwk in enumerate(listed, 1):
        try:
            keys.append(_parse(jwk))
        except ValueError as e:
            unused.append(f"key {number}{_kid(jwk)}: {e}")
    if not keys:
        reasons = "; ".join(unused[:4])
        raise ValueError(f"holds no key for the signatures of tokens{f' ({reasons})' if reasons else ''}")
    return KeyMaterial(tuple(keys), tuple(unused))


def _parse(jwk: Any) -> VerifyKey:
    """Return the public key of a JWK. Raises `ValueError`, whose text names the field that is in the way."""
    if not isinstance(jwk, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004
    given = {name: value for name, value in jwk.items() if value is not None}
    if given.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    operations = given.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops lack verify")
    kid = given.get("kid")
    if not isinstance(kid, str | None):
        raise ValueError("its kid is not a string")  # noqa: TRY004
    try:
        native = _public_key(given)
    except OverflowError:
        raise ValueError("its numbers are no key") from None
    try:
        alg, key = signing_key(native)
    except ValueError as e:
        raise ValueError(f"it is {e}") from None
    if given.get("alg", alg) != alg:
        raise ValueError(f"its alg is not {alg}")
    return VerifyKey(kid, alg, key)


def _public_key(jwk: dict[str, Any]) -> object:
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            modulus, exponent = (int.from_bytes(_bytes(jwk, name), "big") for name in ("n", "e"))
            return RSAPublicNumbers(exponent, modulus).public_key()
        case "EC", "P-256":
            x, y = (int.from_bytes(_bytes(jwk, name, _COORDINATE), "big") for name in ("x", "y"))
            return EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
        case "OKP", "Ed25519":
            return Ed25519PublicKey.from_public_bytes(_bytes(jwk, "x", _COORDINATE))
        case "EC" | "OKP", _:
            raise ValueError("its crv is not P-256 or Ed25519")
    raise ValueError("its kty is not RSA, EC or OKP")


def _bytes(jwk: dict[str, Any], name: str, length: int | None = None) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"its {name} is not a string")  # noqa: TRY004
    try:
        text = text.rstrip("=")
        value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"its {name} is no base64url") from None
    if not value or len(value) > _MAX_NUMBER or (length is not None and len(value) != length):
        raise ValueError(f"its {name} has a wrong length")
    return value


def _kid(jwk: Any) -> str:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return f" (kid {kid[:64]!a})" if isinstance(kid, str) else ""
