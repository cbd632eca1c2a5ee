"""A process that imports and rehearses a program once; each child is a fork of it and starts in a tenth of a second.

    python -m support.forkserver PROGRAM        (in tests/)

PROGRAM is a module with two functions. `prepare()` imports, and does once, what each child would have to do; it leaves
no thread. `run(**arguments)` is the life of a child, which is an ordinary process: it ends when `run` returns.

The protocol is one line of JSON in and one line out: {"run": arguments, "log": path} starts a child, the answer is its
process id; {"reap": pid} waits for a child, the answer is its exit code. Children lead sessions of their own, write
what they print to `log`, and die with the fork server: nothing is left running when a test run is killed.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that a `ForkServer` started: what the tests use of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                fd = os.pidfd_open(self.pid)
                try:
                    ended = select.poll()
                    ended.register(fd, select.POLLIN)
                    if not ended.poll(None if timeout is None else timeout * 1000):
                        raise subprocess.TimeoutExpired("artstore", timeout or 0)
                finally:
                    os.close(fd)
                self.returncode = self._server.ask({"reap": self.pid})
            return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts with its first child, and ends with this process or with `close`; so do its children."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def fork(self, log: Path, **arguments: Any) -> Child:
        """Start a child that runs the program with these arguments; what it prints is appended to `log`."""
        return Child(self, self.ask({"run": arguments, "log": str(log)}))

    def ask(self, line: dict[str, Any]) -> int:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-W", "default", "-m", "support.forkserver", self._program],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS,
                )  # fmt: skip
                atexit.register(self.close)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.communicate(timeout=30)


def main() -> None:
    program = importlib.import_module(sys.argv[1])
    program.prepare()
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "reap" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["reap"], 0)[1]), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            break
    else:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, fd)
    program.run(**asked["run"])


if __name__ == "__main__":
    main()
