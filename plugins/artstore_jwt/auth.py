"""The auth `jwt`: authenticates JWTs that are signed with RS256, and no others."""

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

from joserfc import jws
from joserfc.errors import JoseError
from pydantic import BaseModel

from artstore.errors import Unauthorized
from artstore.spi import API, Auth, Context, Principal
from artstore_jwt.claims import Grant, check_claims, check_header
from artstore_jwt.fetch import fetch
from artstore_jwt.issue import load_private_key, sign_token
from artstore_jwt.keypair import ensure_key_pair
from artstore_jwt.keys import FileKeys, KeySet, Source, UrlKeys
from artstore_jwt.parsing import VerifyKey, jwks_keys, pem_keys, strict_json
from artstore_jwt.settings import JwtSettings

MAX_TOKEN = 8192
"""Characters of a token."""
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
        self._registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
        # The length of a whole token is limited already. The library's limit for headers refuses common ones (x5c).
        self._registry.max_header_length = MAX_TOKEN

    def _open_source(self, settings: JwtSettings, context: Context, ticks: Callable[[], float]) -> Source:
        if settings.jwks_url is not None:
            return UrlKeys(
                partial(fetch, settings.jwks_url, settings.timeout),
                jwks_keys,
                interval=settings.jwks_cache,
                place="auth.jwt.jwks_url",
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
        header = _decode_segment(shape[1])
        kid = check_header(header)
        candidates = keys.candidates(kid)
        if not candidates:
            keys = self._source.refresh(keys)
            candidates = keys.candidates(kid)
        if not candidates:
            raise Unauthorized("The token is signed with a key that is not known here (kid).")
        if not _is_canonical(shape[3]) or not any(self._is_signed_by(k, token) for k in candidates):
            raise Unauthorized("The token's signature is wrong.")
        s = self._settings
        claims = _decode_segment(shape[2])
        return check_claims(claims, issuer=s.issuer, audience=s.audience, leeway=s.leeway, now=now), keys

    def _is_signed_by(self, key: VerifyKey, token: str) -> bool:
        try:
            jws.deserialize_compact(token, key.key, registry=self._registry)
        except (JoseError, ValueError):
            return False
        return True

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        with self._lock:
            if len(self._verified) >= VERIFIED_LIMIT:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = verified

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        s = self._settings
        key = load_private_key(self._private, self._source.current())
        return sign_token(
            key,
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


def _is_canonical(text: str) -> bool:
    """Return whether `text` is the canonical encoding of its bytes. Else a token could be changed and stay valid."""
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(text + "==")).rstrip(b"=").decode() == text
    except ValueError:
        return False
