"""A Python program in a process of its own, which a test steers line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


class Program:
    """A running program. It finds the modules that this process finds, and its warnings are errors."""

    def __init__(self, code: str, *arguments: object) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    def read_line(self) -> str:
        """Wait for the next line that the program prints, and return it."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send_line(self) -> None:
        """Let a program continue that waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def pause(self) -> None:
        """Stop the process as a debugger or a full host does."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process run again."""
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait until the program ends, and return its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """Kill the process, and wait until it is dead."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self._process.kill()
        self._process.communicate()
