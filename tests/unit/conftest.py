"""Tests of this floor compute: one that writes to the disk, or starts a process, or uses the network, fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis.internal.charmap import charmap

_FORBIDDEN = {
    "os.mkdir": "makes the directory {!r}",
    "socket.bind": "binds a socket",
    "socket.connect": "connects a socket",
    "subprocess.Popen": "starts the process {!r}",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.exec": "starts the process {!r}",
    "os.posix_spawn": "starts the process {!r}",
    "os.system": "starts the process {!r}",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NOT_OURS = (".hypothesis", "__pycache__", os.devnull)
"""What Hypothesis and the interpreter keep for themselves, whatever a test does."""

_running: str | None = None


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if _running is None or (event != "open" and event not in _FORBIDDEN):
        return
    path = str(arguments[0]) if arguments else ""
    if any(part in path for part in _NOT_OURS):
        return
    if event == "open":
        if isinstance(arguments[0], int) or not int(arguments[2] or 0) & _WRITES:
            return
        what = f"opens {path!r} for writing"
    else:
        what = _FORBIDDEN[event].format(path)
    pytest.fail(f"{_running} {what}: tests/unit is for tests that only compute. Move it to another floor.")


sys.addaudithook(_forbid)  # for as long as the process lives: it does nothing outside of these tests


@pytest.fixture(scope="session")
def characters() -> None:
    """Have Hypothesis write its table of characters, which it does when it first needs it, by a temporary file."""
    charmap()


@pytest.fixture(autouse=True)
def no_disk_no_process_no_network(characters: None, request: pytest.FixtureRequest) -> Iterator[None]:
    global _running
    _running = request.node.name
    try:
        yield
    finally:
        _running = None
