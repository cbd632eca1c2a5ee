"""Children of the process that serves: forked, so that what was imported is shared by all of them, and one that dies is
soon replaced. That process itself opens nothing: no lock, thread or connection is there for a child to inherit.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing.util
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from artstore.errors import ArtstoreError, ConfigError, Unavailable

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def die_with_parent(death: signal.Signals) -> bool:
    """Have this child get the signal `death` when its parent dies; False when that has died already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death)
    parent = multiprocessing.parent_process()
    return parent is None or parent.pid == os.getppid()


def end_as_usual() -> None:
    """Have this child run what it registers for its end (`atexit`), as processes do that were not forked; what its
    parent registered is its parent's."""
    atexit._clear()
    multiprocessing.util.Finalize(None, atexit._run_exitfuncs, exitpriority=0)


def in_a_child(function: Callable[[], T]) -> T:
    """What `function` returns, run in a child that ends with it. Raises the `ArtstoreError` or `OSError` that it
    raises, and `Unavailable` when the child was killed."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(target=_run, args=(function, sending))
    child.start()
    sending.close()
    try:
        returned, raised = receiving.recv()
    except EOFError:
        child.join()
        if child.exitcode == 1:  # a fault of ours: it has said all that there is to say
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
    end_as_usual()
    try:
        sending.send((function(), None))
    except ConfigError as e:  # a stranger's might have a shape of its own, in which it does not come through
        sending.send((None, ConfigError(e.detail, place=e.place, cure=e.cure)))
    except ArtstoreError as e:
        ours = (c for c in type(e).__mro__ if c.__module__ == ArtstoreError.__module__)
        plain = next(c for c in ours if c is ArtstoreError or "__init__" not in vars(c))
        sending.send((None, plain(e.detail)))
    except OSError as e:
        sending.send((None, OSError(e.errno, e.strerror, e.filename)))
    except KeyboardInterrupt:  # the parent has heard it as well
        os._exit(1)


def stop_as_usual() -> None:
    """Have children begin with the usual effect of the signals that stop: what this process does about them is lost in
    a child, and nobody would stop it."""
    parent = os.getpid()

    def before() -> None:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)

    def in_parent() -> None:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def in_child() -> None:
        if os.getppid() == parent:
            for number in _STOPS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
