"""`OwnedFile`: one live process owns a file, and what a dead one left can be taken over."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from artstore.errors import ConfigError, StorageFull, Unavailable
from artstore.posix import OwnedFile, fsync_directory, translate_errors, translate_startup_errors

OWNER = """
import sys
from pathlib import Path
from artstore.posix import OwnedFile
owned = getattr(OwnedFile, sys.argv[1])(Path(sys.argv[2]))
print("owned" if owned else "refused", flush=True)
sys.stdin.readline()
"""
RACER = """
import sys
from pathlib import Path
from artstore.posix import OwnedFile
path, rounds = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
removed = 0
while removed < rounds:
    owned = OwnedFile.seize(path)
    if owned is not None:
        owned.remove()
        removed += 1
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts another process and waits for its first line."""
    with ExitStack() as stack:

        def start(source: str, *arguments: object, says: str = "owned") -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", source, *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == f"{says}\n"
            return process

        yield start


@pytest.mark.parametrize("how", ["create", "acquire"])
def test_a_file_of_a_live_process_cannot_be_taken(tmp_path: Path, start: Start, how: str) -> None:
    start(OWNER, how, tmp_path / "f")
    assert OwnedFile.seize(tmp_path / "f") is None
    assert OwnedFile.acquire(tmp_path / "f") is None
    with pytest.raises(FileExistsError):
        OwnedFile.create(tmp_path / "f")


@pytest.mark.parametrize("how", ["seize", "acquire"])
def test_a_file_of_a_killed_process_is_taken_over_by_one_process(
    tmp_path: Path, start: Start, how: str
) -> None:
    path = tmp_path / "f"
    owner = start(OWNER, "create", path)
    owner.kill()
    owner.wait()
    successor = getattr(OwnedFile, how)(path)
    assert successor is not None
    start(OWNER, "seize", path, says="refused")
    successor.close()
    start(OWNER, "seize", path)


def test_what_does_not_exist_is_not_seized_but_acquired(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert OwnedFile.seize(path) is None
    owned = OwnedFile.acquire(path)
    assert owned is not None
    owned.close()
    with pytest.raises(FileNotFoundError):
        OwnedFile.acquire(tmp_path / "no such directory" / "f")


def test_a_second_call_of_remove_or_close_leaves_the_successor_s_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    first = OwnedFile.create(path)
    first.remove()
    second = OwnedFile.create(path)
    first.remove()
    first.close()
    assert path.exists()
    assert OwnedFile.seize(path) is None
    second.close()
    second.remove()
    assert path.exists()


def test_a_removed_file_is_not_taken_for_the_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes the file after it was opened and before it is locked."""
    path = tmp_path / "f"
    real = os.open

    def late(*arguments: object, **named: object) -> int:
        fd = real(*arguments, **named)  # type: ignore[arg-type]
        monkeypatch.undo()
        path.unlink()
        path.write_bytes(b"another")
        return fd

    path.touch()
    monkeypatch.setattr(os, "open", late)
    assert OwnedFile.seize(path) is None
    assert path.read_bytes() == b"another"
    owned = OwnedFile.seize(path)
    assert owned is not None
    owned.close()


def test_create_wins_or_creates_again_while_another_process_seizes(tmp_path: Path, start: Start) -> None:
    path, rounds = tmp_path / "f", 300
    racer = start(RACER, path, rounds, says="ready")
    assert racer.stdin is not None
    racer.stdin.write("go\n")
    racer.stdin.flush()
    while racer.poll() is None:
        try:
            owned = OwnedFile.create(path)
        except FileExistsError:  # given up below and not removed yet
            continue
        # It is ours for as long as we hold it, whatever the other process tries.
        assert os.path.samestat(os.fstat(owned.fd), path.stat())
        assert OwnedFile.seize(path) is None
        owned.close()
    assert racer.returncode == 0


def test_of_many_threads_one_owns_the_file(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def acquire() -> OwnedFile | None:
        barrier.wait()
        return OwnedFile.acquire(tmp_path / "f")

    with ThreadPoolExecutor(8) as pool:
        owners = [f.result() for f in [pool.submit(acquire) for _ in range(8)]]
    (owner,) = filter(None, owners)
    owner.remove()
    assert not (tmp_path / "f").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "f").symlink_to(tmp_path / "secret")
    for take in (OwnedFile.seize, OwnedFile.acquire):
        with pytest.raises(OSError, match="symbolic links"):
            take(tmp_path / "f")


def test_a_failure_leaves_neither_file_nor_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="locks"):
        OwnedFile.create(tmp_path / "f")
    assert not (tmp_path / "f").exists()
    with pytest.raises(OSError, match="locks"):
        OwnedFile.acquire(tmp_path / "f")
    assert os.listdir("/proc/self/fd") == before


def test_names_in_a_directory_are_synced_and_a_file_is_refused(tmp_path: Path) -> None:
    fsync_directory(tmp_path)
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError):
        fsync_directory(tmp_path / "f")


@pytest.mark.parametrize(
    ("code", "kind", "at_start"),
    [
        (errno.ENOSPC, StorageFull, StorageFull),
        (errno.EIO, Unavailable, Unavailable),
        (errno.EROFS, Unavailable, Unavailable),
        (errno.EACCES, Unavailable, ConfigError),
    ],
)
def test_an_error_of_the_system_becomes_one_of_ours(
    tmp_path: Path, code: int, kind: type[Exception], at_start: type[Exception]
) -> None:
    reason = os.strerror(code)
    with pytest.raises(kind, match=f"The thing: {reason}"), translate_errors("The thing"):
        raise OSError(code, reason)
    with pytest.raises(at_start, match=f"The home .* cannot be used: {reason}"):  # noqa: SIM117
        with translate_startup_errors(tmp_path, "home"):
            raise OSError(code, reason)
