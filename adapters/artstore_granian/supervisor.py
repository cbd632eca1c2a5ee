"""The supervisor: granian's server, with another rule for workers that die."""

from __future__ import annotations

import mmap
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from granian.server import MPServer
from granian.server.mp import WorkerProcess

from artstore.host import exit_codes
from artstore_granian.processes import SharedPopen

RESTART_INTERVAL = 5.0
"""Seconds between two starts of one worker. A start that fails costs a third of a second of processor time."""


class Wakeup(threading.Event):
    """An event that a signal handler may set whatever the main thread is just doing with it.

    `threading.Event` has a lock. When the signal arrives while the main thread holds that lock, the handler, which runs
    in the same thread, would wait for it without end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._calls.put(None)

    def clear(self) -> None:
        with suppress(Empty):
            while True:
                self._calls.get_nowait()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it was set. One call of `set` ends one call of `wait`."""
        with suppress(Empty):
            self._calls.get(timeout=timeout)
            return True
        return False


class Supervisor(MPServer):
    """Replaces each worker that dies, and ends only by a signal, or when the first start of all workers failed.

    granian itself ends the server, and with it the healthy workers, when a worker dies within 5.5 seconds of its start.
    It also forgets a worker that dies while it replaces another. Here the workers that live go on, whatever happens to
    the others.
    """

    def __init__(self, *args: Any, opened: mmap.mmap, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.main_loop_interrupt = Wakeup()
        self._opened = opened
        """Its byte is 1 once a worker has opened the element. The workers share it."""
        self._starts: dict[int, float] = {}

    def _spawn_worker(self, idx: int, *args: Any, **settings: Any) -> WorkerProcess:
        worker: WorkerProcess = super()._spawn_worker(idx, *args, **settings)
        worker.inner._Popen = SharedPopen
        self._starts[idx] = time.monotonic()
        return worker

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        pause = None
        while not self.interrupt_signal:
            self.main_loop_interrupt.wait(pause)
            self.main_loop_interrupt.clear()
            if self.reload_signal:
                self._reload(spawn_target, target_loader)  # type: ignore[no-untyped-call]
            pause = None if self.interrupt_signal else self._replace_dead(spawn_target, target_loader)
        self.interrupt_children.clear()  # or the exit code would be 1

    def _replace_dead(self, spawn_target: Any, target_loader: Any) -> float | None:
        """Replace the dead workers whose time has come. Return the seconds until that of the next one."""
        dead = [worker for worker in self.wrks if not worker.inner.is_alive()]
        if len(dead) == len(self.wrks) and not self._opened[0]:
            self._end_if_hopeless([worker.inner.exitcode for worker in dead])
        waits = {
            worker.idx: self._starts[worker.idx] + RESTART_INTERVAL - time.monotonic() for worker in dead
        }
        self._respawn_workers([idx for idx, wait in waits.items() if wait <= 0], spawn_target, target_loader)
        return min((wait for wait in waits.values() if wait > 0), default=None)

    def _end_if_hopeless(self, codes: list[int]) -> None:
        """End with the exit code of a worker, unless one was killed or waits for a part that does not answer."""
        if all(code > 0 and code != exit_codes.UNREACHABLE for code in codes):
            self.shutdown(codes[0])  # type: ignore[no-untyped-call]
