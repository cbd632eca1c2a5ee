"""Locks exclude threads and processes alike, and die with their holder."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artstore.locks import Locks

ID = "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4"
OTHER = "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d5"

HOLDER = """
import sys, time
from pathlib import Path
from artstore.locks import Locks
with Locks(Path(sys.argv[1])).exclusive(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / "locks")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLDER, str(tmp_path / "locks"), "element"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def taken(thread: threading.Thread, entered: threading.Event) -> bool:
    """Whether the thread is kept waiting for a while."""
    thread.start()
    return not entered.wait(0.1)


def test_threads_exclude_each_other(locks: Locks) -> None:
    inside = 0

    def enter(_: int) -> int:
        nonlocal inside
        most = 0
        for _ in range(50):
            with locks.file(ID):
                inside += 1
                most = max(most, inside)
                inside -= 1
        return most

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(enter, range(4))) == {1}


def test_two_files_do_not_wait_for_each_other(locks: Locks) -> None:
    with locks.file(ID), locks.file(OTHER), locks.exclusive("recovery"), locks.exclusive("mode"):
        pass


def test_a_lock_is_released_by_an_exception(locks: Locks) -> None:
    with pytest.raises(ZeroDivisionError), locks.exclusive("element"):
        raise ZeroDivisionError
    with locks.exclusive("element"):
        pass


def test_an_exclusive_lock_waits_until_the_last_of_a_shared_one_left(locks: Locks) -> None:
    shared, entered = locks.shared("element"), threading.Event()

    def enter() -> None:
        with locks.exclusive("element"):
            entered.set()

    thread = threading.Thread(target=enter)
    with shared:
        with shared:
            assert taken(thread, entered)
        assert not entered.wait(0.05)
    thread.join(10)
    assert entered.is_set()
    shared.close()


def test_a_process_excludes_another_until_it_is_killed(locks: Locks, holder: subprocess.Popen[str]) -> None:
    entered = threading.Event()

    def enter() -> None:
        with locks.exclusive("element"):
            entered.set()

    thread = threading.Thread(target=enter)
    assert taken(thread, entered)
    holder.send_signal(signal.SIGKILL)
    thread.join(10)
    assert entered.is_set()
