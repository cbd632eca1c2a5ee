"""The key pair an element makes for itself: once, whole, and one pair for all its processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import RSAKey

from artstore.errors import ConfigError, startup_error
from artstore_jwt.parsing import pem_private_key

_BITS = 3072
_PLACE = "auth.jwt"


def ensure_pair(directory: Path) -> bool:
    """See to `public.pem` and `private.pem` in `directory`; True when this call made them.

    The appearance of `private.pem` decides: whoever links it there first has made the pair, and the
    public half is derived from what lies there. Nothing is ever overwritten. A public key without its
    private one is left alone: an operator took the private key away, and the element only verifies.
    """
    private, public = directory / "private.pem", directory / "public.pem"
    try:
        if public.exists():
            return False
        _make_directory(directory)
        made = False
        if not private.exists():
            made = _put(private, RSAKey.generate_key(_BITS, auto_kid=False).as_pem(private=True))
        _put(public, _public_half(private))
    except OSError as e:
        cure = f"Make {directory} writable, or set public_key_file, jwks_url or jwks_file."
        raise startup_error(
            e, f"The key pair cannot be made in {directory}", place=_PLACE, cure=cure
        ) from None
    return made


def _public_half(private: Path) -> bytes:
    try:
        key = pem_private_key(private.read_bytes())
    except ValueError as e:
        raise ConfigError(
            f"{private} {e}.",
            place=_PLACE,
            cure="Put the key back from a copy, or remove it to have a new pair made (old tokens die then).",
        ) from None
    return key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _make_directory(directory: Path) -> None:
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    for made in missing:
        _sync(made.parent)


def _put(path: Path, document: bytes) -> bool:
    """Give `path` this content, durably, unless it is there already; False when it was."""
    fd, temp = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 from its first moment
    try:
        with open(fd, "wb") as f:
            f.write(document)
            f.flush()
            os.fsync(fd)
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        _sync(path.parent)
        return True
    finally:
        os.unlink(temp)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
