"""The key pair that an element makes for itself: once, complete, and one pair for all of its processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from joserfc.jwk import RSAKey

from artstore.errors import ConfigError, startup_error
from artstore.posix import fsync_directory
from artstore_jwt.pem import pem_private_key

_KEY_BITS = 3072
_PLACE = "auth.jwt"


def ensure_key_pair(directory: Path) -> bool:
    """Make `private.pem` and `public.pem` in `directory`, unless they exist. Return whether this call made the pair.

    Both are durable on return. Of several processes, the one that links `private.pem` first has made the pair; each
    derives the public key from that file. Nothing is ever overwritten. A public key without its private key is left
    alone: an operator removed the private key, and the element only verifies. Raises `ConfigError`, `StorageFull`,
    `Unavailable`.
    """
    private, public = directory / "private.pem", directory / "public.pem"
    try:
        if public.exists():
            return False
        _make_directory(directory)
        made = False
        if not private.exists():
            made = _write_new(private, RSAKey.generate_key(_KEY_BITS, auto_kid=False).as_pem(private=True))
        _write_new(public, _derive_public_key(private))
    except OSError as e:
        cure = f"Make {directory} writable, or set public_key_file, jwks_url or jwks_file."
        raise startup_error(
            e, f"The key pair cannot be made in {directory}", place=_PLACE, cure=cure
        ) from None
    return made


def _derive_public_key(private: Path) -> bytes:
    try:
        _, key = pem_private_key(private.read_bytes())
    except ValueError as e:
        raise ConfigError(
            f"{private} {e}.",
            place=_PLACE,
            cure="Restore the key from a copy, or remove it: then a new pair is made, and old tokens are refused.",
        ) from None
    return key.as_pem(private=False)


def _make_directory(directory: Path) -> None:
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    for made in missing:
        fsync_directory(made.parent)


def _write_new(path: Path, document: bytes) -> bool:
    """Create `path` with this content; durable on return. Return False, and do nothing, when it exists."""
    fd, temp = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600 from the start
    try:
        with open(fd, "wb") as f:
            f.write(document)
            f.flush()
            os.fsync(fd)
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        fsync_directory(path.parent)
        return True
    finally:
        os.unlink(temp)
