"""An element of its own for a measurement: started, asked for a token, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ARTSTORE = [sys.executable, "-m", "artstore_cli"]


@dataclass(frozen=True)
class Element:
    """A served element and the processes that serve it."""

    port: int
    home: Path
    token: str
    pid: int

    def pids(self) -> list[int]:
        """The parent and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        return [self.pid, *map(int, children)]

    def cpu(self) -> float:
        """Seconds of processor time so far, of all processes."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak(self) -> int:
        """Most resident bytes so far, of the process that had most."""
        return max(_status(pid, "VmHWM") for pid in self.pids())

    def forget_peak(self) -> None:
        """Count peaks from now on."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def element(home: Path, *, adapter: str, port: int, workers: int = 1) -> Iterator[Element]:
    """Serve a new element at `home` while the block runs."""
    serve = [*ARTSTORE, "serve", "--home", str(home), "--adapter", adapter]
    serve += ["--port", str(port), "--workers", str(workers)]
    log = (home.parent / f"{home.name}.log").open("wb")
    process = subprocess.Popen(serve, stderr=log)
    try:
        _wait(port, process)
        issue = [
            *ARTSTORE,
            "token",
            "--home",
            str(home),
            "--user",
            "bench",
            "--role",
            "operator",
            "--ttl",
            "86400",
        ]
        token = subprocess.run(issue, check=True, capture_output=True, text=True).stdout.strip()
        yield Element(port, home, token, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.close()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the element did not start; see its log")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
