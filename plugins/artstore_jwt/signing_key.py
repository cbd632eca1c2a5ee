"""The keys that tokens are signed and verified with: each fits exactly one algorithm.

The algorithm follows from the key alone (RSA: RS256, EC on P-256: ES256, Ed25519: EdDSA). The header of a token cannot
choose another one for the same key, and a key of another kind has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The algorithms of tokens, as a header names them (`alg`)."""
MIN_BITS = 2048
MAX_BITS = 16384
"""Bits of the modulus of an RSA key."""
KINDS = "RSA, EC on P-256 and Ed25519 can be used"

SigningKey = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, eq=False)
class VerifyKey:
    """A public key, with the one algorithm that it fits, and its `kid` if it has one."""

    kid: str | None
    alg: str
    key: SigningKey

    def is_signer_of(self, text: bytes, signature: bytes) -> bool:
        """Return whether `signature` is one of `text` by this key."""
        try:
            # Not through the library's registry: it takes the algorithm from the token, and warns of EdDSA each time.
            return bool(_model(self.alg).verify(text, signature, self.key))
        except ValueError:
            return False


def sign(alg: str, text: bytes, key: SigningKey) -> bytes:
    """Return the signature of `text`, as a token carries it."""
    return bytes(_model(alg).sign(text, key))


def signing_key(native: object) -> tuple[str, SigningKey]:
    """Return a key of the library `cryptography`, public or private, with the algorithm that it fits.

    Raises `ValueError` for one that fits none; its text follows "holds".
    """
    if isinstance(native, RSAPublicKey | RSAPrivateKey):
        if not MIN_BITS <= native.key_size <= MAX_BITS:
            raise ValueError(
                f"an RSA key of {native.key_size} bits: RS256 needs {MIN_BITS} to {MAX_BITS} of them"
            )
        return "RS256", RSAKey.import_key(native)
    if isinstance(native, EllipticCurvePublicKey | EllipticCurvePrivateKey):
        if not isinstance(native.curve, SECP256R1):
            raise ValueError(f"an EC key on {native.curve.name}: {KINDS}")  # noqa: TRY004 - the file is wrong, not the call
        return "ES256", ECKey.import_key(native)
    if isinstance(native, Ed25519PublicKey | Ed25519PrivateKey):
        return "EdDSA", OKPKey.import_key(native)
    kind = type(native).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
    raise ValueError(f"a key of the kind {kind}: {KINDS}")


def _model(alg: str) -> Any:
    return jws.JWSRegistry.algorithms[alg]
