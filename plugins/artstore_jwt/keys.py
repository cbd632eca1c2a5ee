"""Public keys and where they come from: a PEM file, a JWK set in a file, a JWK set at a URL.

A source always has keys: without any it cannot be built. New keys replace all the old ones. When the new ones cannot be
read, or none of them is usable, that is logged and the old keys stay in use.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from artstore.errors import ConfigError, Unavailable, startup_error
from artstore_jwt.key_material import KeyMaterial
from artstore_jwt.signing_key import VerifyKey

log = logging.getLogger("artstore.jwt")

MIN_REFRESH_INTERVAL = 10.0
"""Seconds between two fetches that an unknown `kid` may cause, and between a failed fetch and the next."""
_FETCH_WAIT = 1.0
"""Seconds that a caller waits for a fetch that another thread makes."""
_MAX_CANDIDATES = 16
"""Keys that are tried for one token: each costs a verification."""
_RECENT_NS = 2 * 10**9
"""Nanoseconds after a change of a file during which its stat does not show another change for certain."""
_FILE_LIMIT = 1 << 20
"""Bytes of a file of keys."""


@dataclass(frozen=True, eq=False)
class KeySet:
    """The keys of one moment. A token that was verified with another set, by identity, has to be verified again."""

    keys: tuple[VerifyKey, ...]

    def candidates(self, kid: str | None, alg: str) -> list[VerifyKey]:
        """Return the keys that may have signed a token with this `kid` and algorithm, at most 16.

        A key with the `kid` hides those without any, also when it fits another algorithm.
        """
        keys: Iterable[VerifyKey] = self.keys
        if kid is not None:
            named = [k for k in self.keys if k.kid == kid]
            keys = named or [k for k in self.keys if k.kid is None]
        return [k for k in keys if k.alg == alg][:_MAX_CANDIDATES]

    @property
    def algorithms(self) -> set[str]:
        """The algorithms that some key fits."""
        return {k.alg for k in self.keys}


class Source(Protocol):
    """Where a `JwtAuth` gets its keys from. Used by many threads."""

    def current(self) -> KeySet:
        """Return the present keys. Looks for newer ones when it is time. Never raises."""

    def refresh(self, known: KeySet) -> KeySet:
        """Return newer keys than `known`, which lacks a `kid`, if another look finds some.

        A caller may ask for any `kid`, so the looks that this causes are limited in their rate. Raises `Unavailable`
        when another thread has been looking for too long.
        """


class FileKeys:
    """Keys from a file, which is read again when its stat changes."""

    def __init__(self, path: str | os.PathLike[str], parse: Callable[[bytes], KeyMaterial], place: str):
        self._path = os.fspath(path)
        self._parse = parse
        self._lock = threading.Lock()
        self._last_error = ""
        try:
            self._seen = self._stat()
            self._raw = self._read()
            self._keys = _key_set(parse(self._raw), self._path)
        except OSError as e:
            cure = "Name a file that the element may read."
            raise startup_error(e, f"{self._path} cannot be read", place=place, cure=cure) from None
        except ValueError as e:
            raise ConfigError(
                f"{self._path} {e}.",
                place=place,
                cure="Name a file with the public keys of tokens and no others.",
            ) from None

    def current(self) -> KeySet:
        if self._stat() == self._seen:
            return self._keys
        with self._lock:
            self._reload()
            return self._keys

    def refresh(self, known: KeySet) -> KeySet:
        return self.current()

    def _reload(self) -> None:
        stat = self._stat()
        if stat == self._seen:
            return
        self._seen = stat
        try:
            raw = self._read()
            if raw != self._raw:
                self._keys, self._raw = _key_set(self._parse(raw), self._path), raw
                log.info("read new keys from %s", self._path)
            self._last_error = ""
        except OSError as e:
            self._log_error(f"cannot be read ({e.strerror or e})")
        except ValueError as e:
            self._log_error(str(e))

    def _log_error(self, text: str) -> None:
        if text != self._last_error:
            log.error("%s %s: the keys that were read before stay in use", self._path, text)
            self._last_error = text

    def _read(self) -> bytes:
        with open(self._path, "rb") as f:
            raw = f.read(_FILE_LIMIT + 1)
        if len(raw) > _FILE_LIMIT:
            raise ValueError("is larger than 1 MiB")
        return raw

    def _stat(self) -> tuple[int, ...] | None:
        """Return what changes when the file changes; None while there is no file.

        The clocks of file systems tick in milliseconds: a file that has just changed may change again with the same
        stat. So for two seconds after a change the result is different at every call.
        """
        try:
            s = os.stat(self._path)
        except OSError:
            return None
        now = time.time_ns()
        recent = now if abs(now - s.st_mtime_ns) < _RECENT_NS else 0
        return s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, recent


class UrlKeys:
    """Keys from a URL. The thread that finds them old fetches new ones; the others use the old ones meanwhile."""

    def __init__(
        self,
        fetch: Callable[[], bytes],
        parse: Callable[[bytes], KeyMaterial],
        *,
        interval: float,
        place: str,
        waits_for: str,
        ticks: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._parse = parse
        self._interval = interval
        self._place = place
        self._ticks = ticks
        self._lock = threading.Lock()
        self._last_refresh = -MIN_REFRESH_INTERVAL
        try:
            log.info("%s: waiting for the JWK set of %s", place, waits_for)
            self._raw = fetch()
            self._keys = _key_set(parse(self._raw), place)
        except OSError as e:  # it may answer later, for example to a worker that replaces a dead one
            cure = "Start the identity provider first, or put its keys into a jwks_file."
            raise Unavailable(f"{place}: No key came from the JWK set: {e}. {cure}") from None
        except ValueError as e:
            cure = "Name the address of a JWK set, or put its keys into a jwks_file."
            raise ConfigError(f"No key came from the JWK set: {e}.", place=place, cure=cure) from None
        self._due = ticks() + interval

    def current(self) -> KeySet:
        if self._ticks() >= self._due and self._lock.acquire(blocking=False):
            try:
                if self._ticks() >= self._due:
                    self._fetch_keys()
            finally:
                self._lock.release()
        return self._keys

    def refresh(self, known: KeySet) -> KeySet:
        if not self._lock.acquire(timeout=_FETCH_WAIT):
            raise Unavailable("The keys that tokens are checked with are being fetched. Try again.")
        try:
            now = self._ticks()
            if self._keys is known and now - self._last_refresh >= MIN_REFRESH_INTERVAL:
                self._last_refresh = now
                self._fetch_keys()
            return self._keys
        finally:
            self._lock.release()

    def _fetch_keys(self) -> None:
        try:
            raw = self._fetch()
            if raw != self._raw:
                self._keys, self._raw = _key_set(self._parse(raw), self._place), raw
                log.info("fetched new keys from %s", self._place)
            self._due = self._ticks() + self._interval
        except (OSError, ValueError) as e:
            self._due = self._ticks() + min(MIN_REFRESH_INTERVAL, self._interval)
            log.error("%s: %s: the keys that were fetched before stay in use", self._place, e)


def _key_set(material: KeyMaterial, place: str) -> KeySet:
    for note in material.unused:
        log.info("%s: not used: %s", place, note)
    return KeySet(material.keys)
