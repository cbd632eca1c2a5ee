"""The parent process of `artstore serve`, and the workers that it starts in place of dead ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support import tracing
from support.servers import start, until


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_workers_end_with_the_process_that_serves(adapter: str, tmp_path: Path) -> None:
    element = start(adapter, tmp_path / "home", workers=2)
    os.kill(element.workers()[0], signal.SIGBUS)
    until(lambda: "Fatal Python error: Bus error" in element.log.read_text(), "the fault handler writes")
    workers = element.workers()
    element.process.send_signal(signal.SIGKILL)
    element.process.wait()
    until(lambda: not any(map(tracing.alive, workers)), "the end of the workers")


def test_a_worker_that_cannot_start_names_the_wrong_setting_in_one_line(tmp_path: Path) -> None:
    element = start("starlette", tmp_path / "home", workers=1)
    (element.home / "artstore.toml").write_text("[server]\nprot = 1\n")
    os.kill(element.workers()[0], signal.SIGKILL)
    assert element.process.wait(60) == 1
    log = element.log.read_text()
    assert "a worker cannot start" in log
    assert "Did you mean 'port'?" in log
    assert "Traceback" not in log
