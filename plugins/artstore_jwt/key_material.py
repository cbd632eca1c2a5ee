"""What was read from one place: the keys that can be used, and a note for each entry that is not used."""

from __future__ import annotations

from dataclasses import dataclass

from artstore_jwt.signing_key import VerifyKey


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """The keys of a file or a JWK set. `unused` names each entry that is no key for tokens, and says why."""

    keys: tuple[VerifyKey, ...]
    unused: tuple[str, ...] = ()
