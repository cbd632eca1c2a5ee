"""One worker process: it opens the element, and makes the app that granian serves."""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import gc
import importlib
import logging
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from artstore.errors import ConfigError, StorageFull, Unavailable
from artstore.host import exit_codes
from artstore.host.boot import open_node
from artstore.host.settings import Configuration
from artstore_granian.adapters import choose_adapter
from artstore_granian.processes import die_with_parent, run_exit_handlers_of_a_fork
from artstore_granian.write_timeout import with_write_timeout

ROUNDS = 20
"""Rounds of the event loop between the end of the app's start and the moment at which signals are unblocked. granian
stops the loop within the first few of them, and runs it again, for good."""
STARTUP_GC_THRESHOLD = 200_000
"""New objects after which the garbage collector runs while a process starts. A start makes 130,000 objects that
stay. With the usual threshold, 700, the collector took a seventh of the time of a start."""

log = logging.getLogger("artstore.server")


def worker_app(configuration: Configuration, opened: mmap.mmap) -> Any:
    """Open the element in this worker process and return its app. It is called by granian, once in each worker.

    The worker ends with the serving process, which is its parent. When it cannot open the element, it logs why and
    exits; the supervisor starts it again. `opened`: the byte by which the supervisor learns that it could.
    """
    if not die_with_parent(signal.SIGTERM):
        raise SystemExit(exit_codes.FAILED)
    run_exit_handlers_of_a_fork()
    faulthandler.enable(2)
    with fewer_collections():
        app = _open_app(configuration)
    opened[0] = 1
    return app


def _open_app(configuration: Configuration) -> Any:
    adapter = choose_adapter(configuration)
    blocked = block_signals_until_uvloop_runs() if adapter.interface == "asgi" else set()
    try:
        pin_to_a_processor(configuration)
        node = open_node(configuration, joining=True)
    except ConfigError as e:
        # All was well when the element started. The cure has a line of its own, and a record of the log is one line.
        log.error("a worker cannot start: %s", " ".join(str(e).split()))
        raise SystemExit(exit_codes.CONFIGURATION) from None
    except (StorageFull, Unavailable) as e:
        log.error("a worker waits: %s", e)
        raise SystemExit(exit_codes.UNREACHABLE) from None
    app = importlib.import_module(adapter.module).create_app(node)
    settings = configuration.settings
    app = with_write_timeout(app, adapter.interface, settings.server.port, settings.limits.body_timeout)
    return unblock_signals_once_uvloop_runs(app, blocked) if blocked else app


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Let the garbage collector run seldom during a start, and never again over what the start has made: it stays to
    the end of the process."""
    threshold = gc.get_threshold()
    gc.set_threshold(STARTUP_GC_THRESHOLD)
    yield
    gc.freeze()
    gc.set_threshold(*threshold)


def block_signals_until_uvloop_runs() -> set[signal.Signals]:
    """Block the signals that stop a worker, and return them.

    uvloop loses a signal that arrives before its loop runs: the worker would then be killed when the shutdown timeout
    is over. Call this before the first thread starts, because a thread that does not block the signal would receive
    it.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    return signals


def unblock_signals_once_uvloop_runs(app: Any, blocked: set[signal.Signals]) -> Any:
    """Return an app that does what `app` does, and unblocks the signals once its start is complete and granian runs the
    loop again.

    Rounds are counted because no time is long enough: between the two runs granian may be held up.
    """

    async def app_with_signals(scope: Any, receive: Any, send: Any) -> None:
        async def send_and_unblock(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                _unblock_after(ROUNDS, asyncio.get_running_loop(), blocked)

        await app(scope, receive, send_and_unblock if scope["type"] == "lifespan" else send)

    return app_with_signals


def _unblock_after(rounds: int, loop: asyncio.AbstractEventLoop, blocked: set[signal.Signals]) -> None:
    if rounds:
        loop.call_soon(_unblock_after, rounds - 1, loop, blocked)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def pin_to_a_processor(configuration: Configuration) -> None:
    """Where there is a worker for each processor, keep this one to a processor of its own.

    Threads of one interpreter that run on different processors hand its lock to each other, which halves what they do
    (measured: 540 and 1,270 uploads a second). The worker holds a lock file until it ends; its successor then takes the
    same processor.
    """
    processors = sorted(os.sched_getaffinity(0))
    workers = configuration.settings.server.workers
    if workers < len(processors):
        return
    directory = configuration.home / "state" / "locks"
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for number in range(workers):
        try:
            slot = os.open(directory / f"worker-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:  # a full disk: pinning is not needed to serve
            return
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
        else:
            os.sched_setaffinity(0, {processors[number % len(processors)]})
            return
