"""The fixture of this floor finds what a test here must not do."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FORBIDDEN: dict[str, Callable[[], object]] = {
    "opens '/tmp/artstore-unit' for writing": lambda: Path("/tmp/artstore-unit").write_bytes(b""),
    "opens '/tmp/artstore-unit-2' for writing": lambda: os.open("/tmp/artstore-unit-2", os.O_CREAT),
    "makes the directory '/tmp/artstore-unit-3'": lambda: os.mkdir("/tmp/artstore-unit-3"),
    "starts the process 'true'": lambda: subprocess.run(["true"], check=True),
    "forks": os.fork,
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_disk_and_processes_are_forbidden_here(what: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=what):
        FORBIDDEN[what]()


@pytest.mark.parametrize("step", ["bind", "connect"])
def test_the_network_is_forbidden_here(step: str) -> None:
    with socket.socket() as s, pytest.raises(pytest.fail.Exception, match=f"{step}s a socket"):
        getattr(s, step)(("127.0.0.1", 1))


def test_reading_is_allowed_here() -> None:
    assert Path(__file__).read_bytes()
