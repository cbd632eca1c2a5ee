"""The supervisor is woken by signals at any moment."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, sys, threading
from artstore_granian.supervisor import Wakeup

event = Wakeup()
lines = 0  # until the signal

def trace(frame, what, _):
    global lines
    if os.path.basename(frame.f_code.co_filename) not in ("threading.py", "supervisor.py"):
        return None
    lines -= what == "line"
    if what == "line" and lines == 0:
        signal.raise_signal(signal.SIGTERM)
    return trace

signal.signal(signal.SIGTERM, lambda *_: event.set())
for number in range(1, 30):  # the signal arrives before each line of the methods in turn
    lines = number
    sys.settrace(trace)
    woken = event.wait(0.02)
    sys.settrace(None)
    assert woken or lines or event.wait(0), number
    lines = number
    sys.settrace(trace)
    event.clear()
    sys.settrace(None)
    event.clear()
assert not event.wait(0.01)
threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGTERM]).start()
assert event.wait()
print("woken")
"""


def test_a_signal_never_stops_the_loop_that_waits_for_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=20
    )
    assert (run.returncode, run.stdout) == (0, "woken\n"), run
