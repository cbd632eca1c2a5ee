"""Processes that the serving process forks, so that they share what it imported, and start soon after one died.

The serving process itself opens nothing: a child inherits no lock, thread or connection from it.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import popen_fork
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from artstore.errors import ArtstoreError, ConfigError, Unavailable

T = TypeVar("T")

log = logging.getLogger("artstore.server")

REPORT_INTERVAL = 10.0
"""Seconds between two lines of the log while a child keeps this process waiting."""

_PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that asks for a signal when the parent dies."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def die_with_parent(death: signal.Signals) -> bool:
    """Let this child receive the signal `death` when its parent dies. Return False when the parent is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death)
    parent = multiprocessing.parent_process()
    return parent is None or parent.pid == os.getppid()


def run_exit_handlers_of_a_fork() -> None:
    """Let this child run at its end what it registers with `atexit`.

    multiprocessing ends a forked child without the handlers of `atexit`. Those that the parent registered before the
    fork are the parent's: they are forgotten here.
    """
    atexit._clear()
    multiprocessing.util.Finalize(None, atexit._run_exitfuncs, exitpriority=0)


def run_in_child(function: Callable[[], T]) -> T:
    """Run `function` in a child process that ends with it, and return what it returns.

    While the child keeps this process waiting, the log says so. Raises the `ArtstoreError` or `OSError` that `function`
    raises, and `Unavailable` when the child was killed. Any other exception is printed by the child and ends this
    process with code 1.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(target=_run, args=(function, sending))
    child.start()
    sending.close()
    started = time.monotonic()
    try:
        while not receiving.poll(REPORT_INTERVAL):
            log.info(
                "recovering for %.0f s; the element listens once that is done", time.monotonic() - started
            )
        returned, raised = receiving.recv()
    except EOFError:
        child.join()
        if child.exitcode == 1:  # the child has printed the traceback
            raise SystemExit(1) from None
        raise Unavailable(f"The process that recovers was killed (exit code {child.exitcode}).") from None
    finally:
        receiving.close()
    child.join()
    if raised is not None:
        raise raised
    result: T = returned
    return result


def _run(function: Callable[[], Any], sending: Connection) -> None:
    if not die_with_parent(signal.SIGKILL):
        os._exit(1)
    run_exit_handlers_of_a_fork()
    try:
        sending.send((function(), None))
    except (ArtstoreError, OSError) as e:
        sending.send((None, _make_picklable(e)))
    except KeyboardInterrupt:  # the terminal has sent it to the parent as well
        os._exit(1)


def _make_picklable(error: ArtstoreError | OSError) -> ArtstoreError | OSError:
    """Return an error of our own class: an error of a plugin may have a constructor that pickle cannot call."""
    if isinstance(error, ConfigError):
        return ConfigError(error.detail, place=error.place, cure=error.cure)
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    for kind in type(error).__mro__:
        if kind.__module__ == ArtstoreError.__module__:
            with suppress(TypeError):  # its constructor needs more than the sentence
                made: ArtstoreError = kind(error.detail)
                return made
    return ArtstoreError(error.detail)


class SharedPopen(popen_fork.Popen):
    """A forked child for whose end several threads may wait: granian has a thread that waits for each worker, and stops
    the workers in another.

    The class of the standard library reports a dead child as alive in one thread while another thread is just reaping
    it. granian would then log that it kills the worker, and kill whichever process has that number by then.
    """

    def __init__(self, process_obj: Any) -> None:
        self._reaping = threading.RLock()
        super().__init__(process_obj)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the child runs. Without WNOHANG in `flag`, wait until it has ended."""
        if self.returncode is None and not flag & os.WNOHANG:
            with suppress(ChildProcessError):  # another thread has reaped it
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            return super().poll(os.WNOHANG)

    def terminate(self) -> None:
        with self._reaping:  # until it is reaped, no other process gets its number
            super().terminate()

    def kill(self) -> None:
        with self._reaping:
            super().kill()


def reset_stop_signals_in_children() -> None:
    """Let every child that is forked from here on begin with the default effect of the signals that stop it.

    The handlers of this process have no effect in a child, so nothing would stop the child until it installs its own.
    The signals are blocked during the fork, so that none is lost in between.
    """
    parent = os.getpid()

    def before() -> None:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)

    def in_parent() -> None:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def in_child() -> None:
        if os.getppid() == parent:
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
