"""Tells plugins of committed changes, behind the answers."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from artstore.attr import Attr
from artstore.host.plugins import Registry
from artstore.spi import Change

log = logging.getLogger("artstore.announcer")


def announcer(registry: Registry) -> tuple[Callable[[Change, Attr], None], Callable[[], None]]:
    """A function that hands changes to the plugins on a thread of its own, and one that ends that thread."""
    if not registry.has_listeners:
        return (lambda op, attr: None), (lambda: None)
    waiting: queue.Queue[tuple[Change, Attr] | None] = queue.Queue(maxsize=10_000)

    def run() -> None:
        while (change := waiting.get()) is not None:
            registry.announce(*change)

    thread = threading.Thread(target=run, name="announcer", daemon=True)
    thread.start()

    def announce(op: Change, attr: Attr) -> None:
        try:
            waiting.put_nowait((op, attr))
        except queue.Full:
            log.warning("plugins hear too slowly: they miss %s of %s", op, attr.file_id)

    def stop() -> None:
        try:
            waiting.put(None, timeout=1)
        except queue.Full:
            return
        thread.join(timeout=5)

    return announce, stop
