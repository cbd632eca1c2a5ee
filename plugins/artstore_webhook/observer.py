"""The observer `webhook`: keeps what it hears in the outbox, and delivers it at leisure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import random
import threading
import time
from http.client import HTTPException
from typing import ClassVar
from urllib.parse import urlsplit

from artstore.attr import Attr
from artstore.errors import ConfigError, startup_error
from artstore.ids import FileId, Key
from artstore.spi import API, Change, Context, Observer
from artstore_webhook import event
from artstore_webhook.endpoint import Endpoint, is_public
from artstore_webhook.outbox import Outbox
from artstore_webhook.settings import WebhookSettings

log = logging.getLogger("artstore.webhook")

LATE = 5.0
"""Seconds an event waits for the one before it, which another process may still have in line."""
LOOK = 0.25
"""Seconds between two looks at an empty outbox."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
SWEEP_EVERY = 60.0
_LATER = frozenset({408, 425, 429})
"""Answers of a receiver that may take the same event later; all of 500 and above, too."""


class WebhookObserver(Observer):
    """Of all processes of an element one delivers, one event at a time, oldest first."""

    API: ClassVar[int] = API
    Settings = WebhookSettings

    def __init__(self, settings: WebhookSettings, context: Context) -> None:
        host = urlsplit(settings.url).hostname or ""
        if not settings.allow_private and _is_surely_private(host):
            raise ConfigError(
                f"{host} is no public address.",
                place="observer.webhook.url",
                cure="If it is meant, say allow_private = true.",
            )
        self._element_id = context.element_id
        self._key = settings.key()
        self._give_up = settings.give_up * 3600
        self._endpoint = Endpoint(
            settings.url, timeout=settings.timeout, allow_private=settings.allow_private
        )
        try:
            self._outbox = Outbox(context.state / "webhook")
        except OSError as e:
            cure = "Make it a directory that this user may read and write."
            raise startup_error(
                e, "The outbox cannot be used", place=str(context.state / "webhook"), cure=cure
            ) from e
        dead = self._outbox.dead()
        if dead:
            log.warning("%d event(s) were given up and lie in %s", dead, context.state / "webhook" / "dead")
        self._failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def committed(self, op: Change, file_id: FileId, key: Key, attr: Attr | None) -> None:
        encoded = event.encode(op, file_id, key, attr, element_id=self._element_id)
        self._outbox.put(event.event_id(op, file_id, key, attr), encoded)

    def flush(self) -> None:
        self._outbox.flush()

    def close(self) -> None:
        self._stop.set()
        self._endpoint.cut()
        self._thread.join(5)
        self._outbox.close()

    # --- delivery -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._stop.wait(LOOK):
            try:
                if not self._outbox.lead():
                    continue
                for name in self._outbox.waiting(LATE):
                    pause = self._deliver(name)
                    if self._stop.wait(pause):
                        return
                    if pause:
                        break  # others may have come before it meanwhile, or been taken away
                if time.monotonic() - swept > SWEEP_EVERY:
                    self._outbox.sweep()
                    swept = time.monotonic()
            except OSError as e:
                log.warning("the outbox cannot be read: %s; it is tried again", e)

    def _deliver(self, name: str) -> float:
        """Try once; seconds to wait before the next try of anything."""
        try:
            body, age = self._outbox.read(name)
        except FileNotFoundError:  # taken away by hand
            return 0
        wish = 0.0
        try:
            status, wish = self._endpoint.post(body, self._headers(name, body))
        except (OSError, HTTPException) as e:
            if self._stop.is_set():
                return 0
            why = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        else:
            if 200 <= status < 300:
                self._outbox.delivered(name)
                if self._failures:
                    log.info("the receiver takes events again")
                self._failures = 0
                return 0
            why = f"it answered {status}"
            if status < 500 and status not in _LATER:
                log.error("event %s is given up: %s", name, why)
                self._outbox.give_up(name)
                return 0
        if age > self._give_up:
            log.error("event %s is given up after %.0f h: %s", name, age / 3600, why)
            self._outbox.give_up(name)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 20))
        self._failures += 1
        # Jitter, so that the senders of a receiver that comes back do not all come at once.
        pause = max(pause * random.uniform(0.5, 1), min(wish, LONGEST_PAUSE))  # noqa: S311 - no secret
        log.warning("event %s was not taken (%s); the next try is in %.0f s", name, why, pause)
        return pause

    def _headers(self, name: str, body: bytes) -> dict[str, str]:
        """Signed as https://www.standardwebhooks.com tells, with the time of this try."""
        at = str(int(time.time()))
        signed = hmac.digest(self._key, f"{name}.{at}.".encode() + body, hashlib.sha256)
        return {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": "artstore",
            "webhook-id": name,
            "webhook-timestamp": at,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }


def _is_surely_private(host: str) -> bool:
    """Without asking anybody."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_public(host)
