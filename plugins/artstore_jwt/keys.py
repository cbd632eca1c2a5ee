"""Public keys and where they come from: a PEM file, a JWK set in a file, a JWK set behind a URL.

A source always has keys: it is built with them or not at all. New keys replace the old ones whole; what
cannot be read or holds no usable key is logged, and the old keys serve on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from artstore.errors import ConfigError, Unavailable, startup_error
from artstore_jwt.parsing import VerifyKey

log = logging.getLogger("artstore.jwt")

FORCED_EVERY = 10.0
"""Seconds between two fetches that an unknown `kid` may cause, and between retries of a failed one."""
_PATIENCE = 1.0
_TRIED = 16
_UNSETTLED = 2 * 10**9
_FILE_LIMIT = 1 << 20


@dataclass(frozen=True, eq=False)
class KeySet:
    """The keys of one moment. Its identity is its generation: what was checked with another set is stale."""

    keys: tuple[VerifyKey, ...]

    def candidates(self, kid: str | None) -> list[VerifyKey]:
        """The keys that may have signed a token with this `kid`, at most 16: each costs a verification."""
        if kid is None:
            return list(self.keys[:_TRIED])
        named = [k for k in self.keys if k.kid == kid]
        return (named or [k for k in self.keys if k.kid is None])[:_TRIED]


class Source(Protocol):
    """Where a `JwtAuth` gets its keys from."""

    def current(self) -> KeySet:
        """The keys of now. Looks for newer ones when it is time, and never raises."""

    def renewed(self, than: KeySet) -> KeySet:
        """Newer keys than those, if another look finds some: for a `kid` that nobody knows.

        Raises `Unavailable` while a look under way takes too long to wait for.
        """


class FileKeys:
    """Keys from a file, read again when its stat changes."""

    def __init__(
        self, path: str | os.PathLike[str], parse: Callable[[bytes], tuple[VerifyKey, ...]], place: str
    ):
        self._path = os.fspath(path)
        self._parse = parse
        self._lock = threading.Lock()
        self._complaint = ""
        try:
            self._seen = self._stamp()
            self._raw = self._read()
            self._keys = KeySet(parse(self._raw))
        except OSError as e:
            cure = "Name a file that the element may read."
            raise startup_error(e, f"{self._path} cannot be read", place=place, cure=cure) from None
        except ValueError as e:
            raise ConfigError(
                f"{self._path} {e}.", place=place, cure="Name a file with an RSA public key."
            ) from None

    def current(self) -> KeySet:
        if self._stamp() == self._seen:
            return self._keys
        with self._lock:
            self._reload()
            return self._keys

    def renewed(self, than: KeySet) -> KeySet:
        return self.current()

    def _reload(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            raw = self._read()
            if raw != self._raw:
                self._keys, self._raw = KeySet(self._parse(raw)), raw
                log.info("read new keys from %s", self._path)
            self._complaint = ""
        except OSError as e:
            self._complain(f"cannot be read ({e.strerror or e})")
        except ValueError as e:
            self._complain(str(e))

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.error("%s %s: the keys read before serve on", self._path, text)
            self._complaint = text

    def _read(self) -> bytes:
        with open(self._path, "rb") as f:
            raw = f.read(_FILE_LIMIT + 1)
        if len(raw) > _FILE_LIMIT:
            raise ValueError("is larger than 1 MiB")
        return raw

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes when the file does; None while there is none.

        Clocks of file systems tick in milliseconds: a file changed this moment may change again without
        looking changed, so for two seconds its stamp is new at every look.
        """
        try:
            s = os.stat(self._path)
        except OSError:
            return None
        now = time.time_ns()
        fresh = now if abs(now - s.st_mtime_ns) < _UNSETTLED else 0
        return s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, fresh


class UrlKeys:
    """Keys from a URL, fetched by the thread that finds them old; the others go on with those at hand."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        parse: Callable[[bytes], tuple[VerifyKey, ...]],
        *,
        every: float,
        place: str,
        ticks: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._parse = parse
        self._every = every
        self._place = place
        self._ticks = ticks
        self._lock = threading.Lock()
        self._forced = -FORCED_EVERY
        try:
            self._raw = fetch()
            self._keys = KeySet(parse(self._raw))
        except OSError as e:  # it may answer later: to a worker that takes a dead one's place, for one
            cure = "Start the identity provider first, or put its keys into a jwks_file."
            raise Unavailable(f"{place}: No key came from the JWK set: {e}. {cure}") from None
        except ValueError as e:
            cure = "Name the address of a JWK set, or put its keys into a jwks_file."
            raise ConfigError(f"No key came from the JWK set: {e}.", place=place, cure=cure) from None
        self._due = ticks() + every

    def current(self) -> KeySet:
        if self._ticks() >= self._due and self._lock.acquire(blocking=False):
            try:
                if self._ticks() >= self._due:
                    self._renew()
            finally:
                self._lock.release()
        return self._keys

    def renewed(self, than: KeySet) -> KeySet:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise Unavailable("The keys that tokens are checked with are being fetched. Try again.")
        try:
            now = self._ticks()
            if self._keys is than and now - self._forced >= FORCED_EVERY:
                self._forced = now
                self._renew()
            return self._keys
        finally:
            self._lock.release()

    def _renew(self) -> None:
        try:
            raw = self._fetch()
            if raw != self._raw:
                self._keys, self._raw = KeySet(self._parse(raw)), raw
                log.info("fetched new keys from %s", self._place)
            self._due = self._ticks() + self._every
        except (OSError, ValueError) as e:
            self._due = self._ticks() + min(FORCED_EVERY, self._every)
            log.error("%s: %s: the keys fetched before serve on", self._place, e)
