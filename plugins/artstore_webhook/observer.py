"""The observer `webhook`: puts every change into the outbox, and delivers it from there in its own thread."""

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
from artstore.errors import ConfigError
from artstore.ids import FileId, Key
from artstore.posix import translate_startup_errors
from artstore.spi import API, Change, Context, Observer
from artstore_webhook import event
from artstore_webhook.endpoint import Endpoint, is_public
from artstore_webhook.outbox import Outbox
from artstore_webhook.settings import WebhookSettings

log = logging.getLogger("artstore.webhook")

ORDER_TIMEOUT = 5.0
"""Seconds that an event waits for its predecessor, which another process may not have put yet."""
POLL_INTERVAL = 0.25
"""Seconds between two looks into an empty outbox."""
RETRY_MIN, RETRY_MAX = 1.0, 300.0
"""Seconds between two tries: at first, and at most."""
SWEEP_INTERVAL = 60.0
"""Seconds between two sweeps of the outbox."""
CLOSE_TIMEOUT = 5.0
"""Seconds that `close` waits for the thread."""
_TRANSIENT = frozenset({408, 425, 429})
"""Statuses below 500 after which the receiver may accept the same event later. After 500 and above it may too."""


class WebhookObserver(Observer):
    """Of all processes of an element, one delivers: one event at a time, the oldest first."""

    API: ClassVar[int] = API
    Settings = WebhookSettings

    def __init__(self, settings: WebhookSettings, context: Context) -> None:
        host = urlsplit(settings.url).hostname or ""
        if not settings.allow_private and _is_surely_private(host):
            raise ConfigError(
                f"{host} is no public address.",
                place="observer.webhook.url",
                cure="If this is intended, set allow_private = true.",
            )
        self._element_id = context.element_id
        self._key = settings.key()
        self._retry_for = settings.retry_for_hours * 3600
        self._endpoint = Endpoint(
            settings.url, timeout=settings.timeout, allow_private=settings.allow_private
        )
        directory = context.state / "webhook"
        with translate_startup_errors(directory, "outbox"):
            self._outbox = Outbox(directory)
            dead = self._outbox.count_dead()
        if dead:
            log.warning("%d event(s) were given up and lie in %s", dead, directory / "dead")
        self._failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def committed(self, change: Change, file_id: FileId, key: Key, attr: Attr | None) -> None:
        encoded = event.encode(change, file_id, key, attr, element_id=self._element_id)
        self._outbox.put(event.event_id(change, file_id, key, attr), encoded)

    def flush(self) -> None:
        self._outbox.flush()

    def close(self) -> None:
        self._stop.set()
        self._endpoint.interrupt()
        self._thread.join(CLOSE_TIMEOUT)
        self._outbox.close()

    # --- delivery -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._stop.wait(POLL_INTERVAL):
            try:
                if not self._outbox.become_sender():
                    continue
                for event_id in self._outbox.list_due(ORDER_TIMEOUT):
                    pause = self._deliver(event_id)
                    if self._stop.wait(pause):
                        return
                    if pause:
                        break  # the outbox may have changed meanwhile: look again
                if time.monotonic() - swept > SWEEP_INTERVAL:
                    self._outbox.sweep()
                    swept = time.monotonic()
            except OSError as e:
                log.warning("the outbox cannot be read: %s; this will be tried again", e)

    def _deliver(self, event_id: str) -> float:
        """Try once to deliver an event. Return the seconds to wait before the next try of any event."""
        try:
            body, age = self._outbox.read(event_id)
        except FileNotFoundError:  # removed by hand
            return 0
        retry_after = 0.0
        try:
            status, retry_after = self._endpoint.post(body, self._headers(event_id, body))
        except (OSError, HTTPException) as e:
            if self._stop.is_set():
                return 0
            reason = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        else:
            if 200 <= status < 300:
                self._outbox.move_to_sent(event_id)
                if self._failures:
                    log.info("the receiver accepts events again")
                self._failures = 0
                return 0
            reason = f"it answered {status}"
            if status < 500 and status not in _TRANSIENT:
                log.error("event %s is given up: %s", event_id, reason)
                self._outbox.move_to_dead(event_id)
                return 0
        if age > self._retry_for:
            log.error("event %s is given up after %.0f h: %s", event_id, age / 3600, reason)
            self._outbox.move_to_dead(event_id)
        pause = min(RETRY_MAX, RETRY_MIN * 2.0 ** min(self._failures, 20))
        self._failures += 1
        # Jitter: when a receiver comes back, not all of its senders come at the same moment.
        pause = max(pause * random.uniform(0.5, 1), min(retry_after, RETRY_MAX))  # noqa: S311 - no secret
        log.warning("event %s was not delivered (%s); the next try is in %.0f s", event_id, reason, pause)
        return pause

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        """Return the headers of one try, made now and signed as https://www.standardwebhooks.com specifies."""
        at = str(int(time.time()))
        signed = hmac.digest(self._key, f"{event_id}.{at}.".encode() + body, hashlib.sha256)
        return {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": "artstore",
            "webhook-id": event_id,
            "webhook-timestamp": at,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }


def _is_surely_private(host: str) -> bool:
    """Return whether `host` is private by its name alone, without a look-up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_public(host)
