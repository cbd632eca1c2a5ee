"""Parses keys as operators keep them (PEM, JWK sets), and JSON strictly."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from joserfc.jwk import RSAKey

MIN_BITS = 2048
_MAX_BITS = 16384
"""Bits of the modulus of an RSA key."""


@dataclass(frozen=True, eq=False)
class VerifyKey:
    """A public key, with its `kid` if it has one."""

    kid: str | None
    key: RSAKey


def strict_json(raw: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises `ValueError`, also for what parsers read differently: duplicate names, NaN."""
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - the text is wrong, not the call
    return value


def pem_private_key(raw: bytes) -> RSAKey:
    """Return the RSA private key of a PEM file. Raises `ValueError`, whose text follows the name of the file."""
    try:
        key = load_pem_private_key(raw, password=None)
    except TypeError:
        raise ValueError("is encrypted: keep the key without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("holds a key that is not RSA")  # noqa: TRY004 - the file is wrong, not the call
    _check_size(key.key_size)
    return RSAKey.import_key(key)


def pem_keys(raw: bytes) -> tuple[VerifyKey, ...]:
    """Return the one public key of a PEM file: of a public key, a certificate or a private key.

    It has no `kid`: a token is verified with it whatever `kid` the token carries. Raises `ValueError`.
    """
    return (VerifyKey(None, RSAKey.import_key(_parse_pem_public_key(raw))),)


def jwks_keys(raw: bytes) -> tuple[VerifyKey, ...]:
    """Return the keys of a JWK set that RS256 can use, without the others. Raises `ValueError` when there is none."""
    try:
        listed = strict_json(raw).get("keys")
    except ValueError as e:
        raise ValueError(f"is no JWK set ({e})") from None
    if not isinstance(listed, list):
        raise ValueError('is no JWK set (it has no list "keys")')  # noqa: TRY004
    keys = tuple(k for k in map(_parse_jwk, listed) if k is not None)
    if not keys:
        raise ValueError(f"holds no RSA key of {MIN_BITS} bits or more for RS256 signatures")
    return keys


def _parse_pem_public_key(raw: bytes) -> RSAPublicKey:
    if b"PRIVATE KEY-----" in raw:
        return pem_private_key(raw).public_key
    try:
        if b"-----BEGIN CERTIFICATE-----" in raw:
            key: object = load_pem_x509_certificate(raw).public_key()
        else:
            key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no public key in PEM") from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError("holds a key that is not RSA")  # noqa: TRY004
    _check_size(key.key_size)
    return key


def _parse_jwk(jwk: Any) -> VerifyKey | None:
    if not isinstance(jwk, dict) or jwk.get("kty") != "RSA":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", "RS256") != "RS256":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid, n, e = jwk.get("kid"), jwk.get("n"), jwk.get("e")
    if not isinstance(kid, str | None) or not isinstance(n, str) or not isinstance(e, str):
        return None
    # The size is checked before a key is built: the library warns of small keys and is slow with huge ones.
    try:
        modulus, exponent = _decode_integer(n), _decode_integer(e)
        if not MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
            return None
        return VerifyKey(kid, RSAKey.import_key(RSAPublicNumbers(exponent, modulus).public_key()))
    except (ValueError, OverflowError):
        return None


def _decode_integer(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text.rstrip("=") + "=="), "big")


def _check_size(bits: int) -> None:
    if bits < MIN_BITS:
        raise ValueError(f"holds a key of {bits} bits: RS256 needs {MIN_BITS} or more")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("names something twice")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no JSON")
