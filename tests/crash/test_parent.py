"""The process that serves, and the workers that take the place of dead ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.servers import start, until


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_workers_end_with_the_process_that_serves(adapter: str, tmp_path: Path) -> None:
    element = start(adapter, tmp_path / "home", workers=2)
    os.kill(element.workers()[0], signal.SIGBUS)
    until(lambda: "Fatal Python error: Bus error" in element.log.read_text(), "last words")
    workers = children(element.process.pid)
    element.process.send_signal(signal.SIGKILL)
    element.process.wait()
    until(lambda: not any(map(alive, workers)), "the end of the workers")


def test_a_configuration_that_was_spoilt_since_the_start_is_one_line(tmp_path: Path) -> None:
    element = start("starlette", tmp_path / "home", workers=1)
    (element.home / "artstore.toml").write_text("[server]\nprot = 1\n")
    os.kill(element.workers()[0], signal.SIGKILL)
    assert element.process.wait(60) == 1
    log = element.log.read_text()
    assert "a worker cannot start" in log
    assert "Did you mean 'port'?" in log
    assert "Traceback" not in log
