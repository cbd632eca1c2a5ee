"""The auth `jwt`: authenticates JWTs that are signed with RS256, ES256 or EdDSA, and no others."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from artstore.errors import Unauthorized
from artstore.spi import API, Auth, Context, Principal
from artstore_jwt.claims import Grant, check_claims, check_header
from artstore_jwt.fetch import fetch
from artstore_jwt.issue import load_signer, sign_token
from artstore_jwt.jwks import jwks_keys
from artstore_jwt.keypair import ensure_key_pair
from artstore_jwt.keys import FileKeys, KeySet, Source, UrlKeys
from artstore_jwt.pem import pem_keys
from artstore_jwt.settings import JwtSettings
from artstore_jwt.strict_json import strict_json

MAX_TOKEN = 14 << 10
"""Characters of a token. One of Entra ID may name 200 groups; the head of a request has 16 KiB."""
VERIFIED_LIMIT = 10_000
"""Verified tokens that are remembered."""
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)
_NOT_JWT = "The bearer token is not a JWT."


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token whose signature was verified with `keys`."""

    grant: Grant
    keys: KeySet


class JwtAuth(Auth):
    """Authenticates tokens, and issues them when it has the private key.

    `generated` is True in the process that has just made the key pair of the element: at its first start, when no
    valid token can exist yet. `clock` returns Unix time, `ticks` the time of a clock that never goes back.
    """

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = JwtSettings

    def __init__(
        self,
        settings: JwtSettings,
        context: Context,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.generated = False
        self._private: Path | None = settings.private_key_file
        self._source = self._open_source(settings, context, ticks)
        self._verified: dict[bytes, _Verified] = {}
        self._lock = threading.Lock()
        self._rights = settings.rights

    def _open_source(self, settings: JwtSettings, context: Context, ticks: Callable[[], float]) -> Source:
        if settings.jwks_url is not None:
            return UrlKeys(
                partial(fetch, settings.jwks_url, settings.timeout),
                jwks_keys,
                interval=settings.jwks_cache,
                place="auth.jwt.jwks_url",
                waits_for=f"{settings.jwks_url}, at most {settings.timeout:g} s",
                ticks=ticks,
            )
        if settings.jwks_file is not None:
            return FileKeys(settings.jwks_file, jwks_keys, "auth.jwt.jwks_file")
        if settings.public_key_file is not None:
            return FileKeys(settings.public_key_file, pem_keys, "auth.jwt.public_key_file")
        if settings.private_key_file is not None:
            return FileKeys(settings.private_key_file, pem_keys, "auth.jwt.private_key_file")
        directory = context.state / "keys"
        self.generated = ensure_key_pair(directory)
        self._private = directory / "private.pem"
        return FileKeys(directory / "public.pem", pem_keys, "auth.jwt")

    def authenticate(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN:
            raise Unauthorized(f"The bearer token is longer than {MAX_TOKEN} characters.")
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        keys = self._source.current()
        now = self._clock()
        verified = self._verified.get(digest)
        if verified is not None and verified.keys is keys:
            try:
                return verified.grant.principal_at(now)
            except Unauthorized:
                with self._lock:
                    self._verified.pop(digest, None)
                raise
        grant, keys = self._verify(token, keys, now)
        principal = grant.principal_at(now)
        self._remember(digest, _Verified(grant, keys))
        return principal

    def _verify(self, token: str, keys: KeySet, now: float) -> tuple[Grant, KeySet]:
        shape = _SHAPE.fullmatch(token)
        if shape is None:
            raise Unauthorized(_NOT_JWT)
        header = check_header(_decode_segment(shape[1]))
        candidates = keys.candidates(header.kid, header.alg)
        if not candidates:
            keys = self._source.refresh(keys)
            candidates = keys.candidates(header.kid, header.alg)
        if not candidates and header.alg not in keys.algorithms:
            raise Unauthorized("The token's algorithm is not allowed: no key here fits it.")
        if not candidates:
            raise Unauthorized("The token is signed with a key that is not known here (kid).")
        text, signature = token[: shape.end(2)].encode(), _decode_signature(shape[3])
        if signature is None or not any(k.is_signer_of(text, signature) for k in candidates):
            raise Unauthorized("The token's signature is wrong.")
        s = self._settings
        claims = _decode_segment(shape[2])
        return check_claims(
            claims, header, self._rights, issuer=s.issuer, audience=s.audience, leeway=s.leeway, now=now
        ), keys

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        with self._lock:
            if len(self._verified) >= VERIFIED_LIMIT:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = verified

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        s = self._settings
        signer = load_signer(self._private, self._source.current())
        return sign_token(
            signer,
            self._rights,
            user=user,
            roles=roles,
            seconds=seconds,
            now=self._clock(),
            issuer=s.issuer,
            audience=s.audience,
        )

    def check(self) -> None:
        """Fetch newer keys when it is time. Never raises: a source always has keys."""
        self._source.current()

    def close(self) -> None:
        with self._lock:
            self._verified.clear()


def _decode_segment(text: str) -> dict[str, Any]:
    try:
        return strict_json(base64.urlsafe_b64decode(text + "=="))
    except ValueError:
        raise Unauthorized(_NOT_JWT) from None


def _decode_signature(text: str) -> bytes | None:
    """Return the bytes of a signature. None for another encoding of them: a token could be changed and stay valid."""
    try:
        raw = base64.urlsafe_b64decode(text + "==")
    except ValueError:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text else None
