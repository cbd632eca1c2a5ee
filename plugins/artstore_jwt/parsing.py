"""Keys as operators keep them (PEM, JWK sets) and JSON as senders of tokens must not write it."""

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


@dataclass(frozen=True, eq=False)
class VerifyKey:
    """A public key and the `kid` it goes by, if any."""

    kid: str | None
    key: RSAKey


def strict_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. ValueError on what two parsers may read differently: duplicate names, NaN, no UTF-8."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - the text's fault, not the caller's
    return value


def pem_private_key(raw: bytes) -> RSAKey:
    """The RSA private key in a PEM file. ValueError says what is wrong, to follow the file's name."""
    try:
        key = load_pem_private_key(raw, password=None)
    except TypeError:
        raise ValueError("is encrypted: keep the key without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("holds a key that is not RSA")  # noqa: TRY004 - the file's fault, not the caller's
    _check_size(key.key_size)
    return RSAKey.import_key(key)


def pem_keys(raw: bytes) -> tuple[VerifyKey, ...]:
    """The one public key of a PEM file: a key, a certificate, or the public half of a private key.

    It goes by no `kid`: whatever `kid` a token carries, this is the key it is checked with.
    """
    return (VerifyKey(None, RSAKey.import_key(_pem_public(raw))),)


def jwks_keys(raw: bytes) -> tuple[VerifyKey, ...]:
    """The keys of a JWK set that RS256 can use; the others are passed over. ValueError when none is left."""
    try:
        listed = strict_json(raw).get("keys")
    except ValueError as e:
        raise ValueError(f"is no JWK set ({e})") from None
    if not isinstance(listed, list):
        raise ValueError('is no JWK set (it has no list "keys")')  # noqa: TRY004
    keys = tuple(k for k in map(_jwk, listed) if k is not None)
    if not keys:
        raise ValueError(f"holds no RSA key of {MIN_BITS} bits or more for RS256 signatures")
    return keys


def _pem_public(raw: bytes) -> RSAPublicKey:
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


def _jwk(jwk: Any) -> VerifyKey | None:
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
    # The size is judged before a key is built: what the library warns of or chokes on never gets there.
    try:
        modulus, exponent = _integer(n), _integer(e)
        if not MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
            return None
        return VerifyKey(kid, RSAKey.import_key(RSAPublicNumbers(exponent, modulus).public_key()))
    except (ValueError, OverflowError):
        return None


def _integer(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text.rstrip("=") + "=="), "big")


def _check_size(bits: int) -> None:
    if bits < MIN_BITS:
        raise ValueError(f"holds a key of {bits} bits: RS256 needs {MIN_BITS} or more")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("names something twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no JSON")
