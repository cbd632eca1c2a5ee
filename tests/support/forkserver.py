"""Processes of `artstore` that are forked from one that has imported it: most of what a start costs is the same for
all.

    python mother.py

A line of JSON in, a line out: {"argv", "environment", "cwd", "log"} gives birth, out comes the process id;
{"reap": pid} gives the exit code of one that ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

AHEAD = """
granian.server.mp uvloop artstore_granian.serve artstore_granian.worker artstore_starlette.app artstore_falcon.app artstore_local.backend
artstore_naming.dated artstore_sql.sqlite.cache artstore_sql.postgres.cache artstore_sql.postgres.log artstore_jwt.auth
artstore_s3.backend artstore_crypt.backend
"""


class Born:
    """A process that `Mother` gave birth to: what the tests use of `subprocess.Popen`."""

    def __init__(self, mother: Mother, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._mother = mother
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
                self.returncode = self._mother.ask({"reap": self.pid})
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


class Mother:
    """Begins with the first birth, and ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def birth(self, argv: list[str], environment: dict[str, str], cwd: Path, log: Path) -> Born:
        wanted = {"argv": argv, "environment": environment, "cwd": str(cwd), "log": str(log)}
        return Born(self, self.ask(wanted))

    def ask(self, line: dict[str, Any]) -> int:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-W", "default", __file__],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                atexit.register(self._process.communicate)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def main() -> None:
    for module in AHEAD.split():
        importlib.import_module(module)
    artstore_main = importlib.import_module("artstore_cli.main").main
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
    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    sink = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for fd, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, sink), (2, sink)):
        os.dup2(source, fd)
    sys.argv = asked["argv"]
    sys.exit(artstore_main(sys.argv[1:]))


if __name__ == "__main__":
    main()
