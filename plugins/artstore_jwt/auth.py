"""The auth `jwt`: who a bearer token speaks for, told by RS256 alone."""

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
from artstore_jwt.claims import Accepted, accept, check_header
from artstore_jwt.fetch import fetch
from artstore_jwt.issue import make_token, private_key
from artstore_jwt.keypair import ensure_pair
from artstore_jwt.keys import FileKeys, KeySet, Source, UrlKeys
from artstore_jwt.parsing import VerifyKey, jwks_keys, pem_keys, strict_json
from artstore_jwt.settings import JwtSettings

MAX_TOKEN = 8192
REMEMBERED = 10_000
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)
_NOT_JWT = "The bearer token is not a JWT."


@dataclass(frozen=True, slots=True)
class _Checked:
    accepted: Accepted
    keys: KeySet


class JwtAuth(Auth):
    """Checks tokens, and makes some when it holds the private key.

    `generated` is True in the process that has just made the element's own key pair: the first start,
    when nobody can have a token yet. `clock` is Unix time, `ticks` a clock that only runs forward.
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
        self._source = self._open(settings, context, ticks)
        self._checked: dict[bytes, _Checked] = {}
        self._lock = threading.Lock()
        self._registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
        # The whole token is bounded already; the library's bound on headers refuses common ones (x5c).
        self._registry.max_header_length = MAX_TOKEN

    def _open(self, settings: JwtSettings, context: Context, ticks: Callable[[], float]) -> Source:
        if settings.jwks_url is not None:
            return UrlKeys(
                partial(fetch, settings.jwks_url, settings.timeout),
                jwks_keys,
                every=settings.jwks_cache,
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
        self.generated = ensure_pair(directory)
        self._private = directory / "private.pem"
        return FileKeys(directory / "public.pem", pem_keys, "auth.jwt")

    def authenticate(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN:
            raise Unauthorized(f"The bearer token is longer than {MAX_TOKEN} characters.")
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        keys = self._source.current()
        now = self._clock()
        checked = self._checked.get(digest)
        if checked is not None and checked.keys is keys:
            try:
                return checked.accepted.at(now)
            except Unauthorized:
                with self._lock:
                    self._checked.pop(digest, None)
                raise
        accepted, keys = self._verify(token, keys, now)
        principal = accepted.at(now)
        self._remember(digest, _Checked(accepted, keys))
        return principal

    def _verify(self, token: str, keys: KeySet, now: float) -> tuple[Accepted, KeySet]:
        shape = _SHAPE.fullmatch(token)
        if shape is None:
            raise Unauthorized(_NOT_JWT)
        header = _segment(shape[1])
        kid = check_header(header)
        candidates = keys.candidates(kid)
        if not candidates:
            keys = self._source.renewed(keys)
            candidates = keys.candidates(kid)
        if not candidates:
            raise Unauthorized("The token is signed with a key that is not known here (kid).")
        if not _is_canonical(shape[3]) or not any(self._signed(token, k) for k in candidates):
            raise Unauthorized("The token's signature is wrong.")
        s = self._settings
        claims = _segment(shape[2])
        return accept(claims, issuer=s.issuer, audience=s.audience, leeway=s.leeway, now=now), keys

    def _signed(self, token: str, key: VerifyKey) -> bool:
        try:
            jws.deserialize_compact(token, key.key, registry=self._registry)
        except (JoseError, ValueError):
            return False
        return True

    def _remember(self, digest: bytes, checked: _Checked) -> None:
        with self._lock:
            if len(self._checked) >= REMEMBERED:
                del self._checked[next(iter(self._checked))]
            self._checked[digest] = checked

    def issue(self, *, user: str, roles: Iterable[str], seconds: int) -> str:
        s = self._settings
        key = private_key(self._private, self._source.current())
        return make_token(
            key,
            user=user,
            roles=roles,
            seconds=seconds,
            now=self._clock(),
            issuer=s.issuer,
            audience=s.audience,
        )

    def check(self) -> None:
        """Nothing to wait for: without keys it would not have been built, and those it has are never lost."""
        self._source.current()

    def close(self) -> None:
        with self._lock:
            self._checked.clear()


def _segment(text: str) -> dict[str, Any]:
    try:
        return strict_json(base64.urlsafe_b64decode(text + "=="))
    except ValueError:
        raise Unauthorized(_NOT_JWT) from None


def _is_canonical(text: str) -> bool:
    """Whether `text` is the one way to write its bytes: no bit of a token can change and leave it valid."""
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(text + "==")).rstrip(b"=").decode() == text
    except ValueError:
        return False
