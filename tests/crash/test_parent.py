"""The process that serves is killed: its workers, which nobody could restart, end as well."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from servers import start, until


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
    workers = children(element.process.pid)
    element.process.send_signal(signal.SIGKILL)
    element.process.wait()
    until(lambda: not any(map(alive, workers)), "the end of the workers")
