"""Blocks that large uploads allocate ahead on ext4: none for bytes that nobody sent, none behind the end of a file."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artstore.errors import StorageFull, Unavailable
from artstore.spi import PIECE
from artstore.testing import make_context
from artstore.testing.backend import KEY, SIDECAR, entries, key
from artstore_local import preallocation
from artstore_local.backend import LocalBackend
from support.stores import opening

PIECES = os.urandom(PIECE)
SLACK = 128 << 10
"""Bytes of directories and extents beside the data."""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 96 MiB."""
    image, place = tmp_path / "image", tmp_path / "volume"
    place.mkdir()
    with image.open("wb") as f:
        f.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def backend(volume: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalBackend]:
    monkeypatch.setattr(preallocation, "MIN_FREE", 0)
    with opening(lambda: LocalBackend(LocalBackend.Settings(), make_context(volume))) as open_it:
        yield open_it()


def staged(volume: Path) -> list[Path]:
    place = volume / "files" / ".artstore" / "staging"
    return [p for p in place.rglob("*") if p.is_file() and p.name != "lock"]


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 7 * PIECE + 4097, 41 * PIECE + 5])
def test_no_more_is_allocated_ahead_than_was_sent_and_nothing_in_the_end(
    backend: LocalBackend, volume: Path, size: int
) -> None:
    writer = backend.create(KEY)
    ahead = 0
    for start in range(0, size, PIECE):
        writer.write(PIECES[: size - start])
        (file,) = staged(volume)
        sent = min(size, start + PIECE)
        assert file.stat().st_size == sent
        ahead = max(ahead, allocated(file) - sent)
        assert allocated(file) <= sent + min(preallocation.AHEAD, sent) + SLACK
    assert (ahead > SLACK) == (size > PIECE)
    writer.publish(SIDECAR)
    published = volume / "files" / KEY
    assert published.stat().st_size == size
    assert size <= allocated(published) < size + SLACK
    with published.open("rb") as f:
        for start in range(0, size, PIECE):
            assert f.read(PIECE) == PIECES[: size - start]


def test_an_abort_frees_all(backend: LocalBackend, volume: Path) -> None:
    for n in range(6):  # more than fits, if the blocks of one stayed
        writer = backend.create(key(n))
        for _ in range(20):
            writer.write(PIECES)
        writer.abort()
        os.sync()  # ext4 reuses freed blocks only once their release was committed
    assert staged(volume) == []


def test_a_full_volume_refuses_and_frees_all(backend: LocalBackend, volume: Path) -> None:
    free = backend.free_bytes()
    writer = backend.create(KEY)
    fits = free // PIECE - 2
    for _ in range(fits):
        writer.write(PIECES)
    with pytest.raises(StorageFull):
        writer.write(3 * PIECES)
    writer.abort()
    os.sync()
    assert entries(backend) == {}
    assert backend.free_bytes() > free - SLACK


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_refused_allocation_is_not_repeated_and_the_upload_goes_on(
    backend: LocalBackend, volume: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls = []

    def refuse(*call: int) -> int:
        calls.append(call)
        preallocation.ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(preallocation, "_fallocate", refuse)
    writer = backend.create(KEY)
    for _ in range(5):
        writer.write(PIECES)
    writer.publish(SIDECAR)
    assert len(calls) == 1
    assert (volume / "files" / KEY).read_bytes() == 5 * PIECES


def test_nothing_is_allocated_ahead_on_a_volume_that_is_nearly_full_nor_on_another_file_system(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preallocation, "MIN_FREE", 1 << 30)
    monkeypatch.setattr(preallocation, "_fallocate", lambda *_: pytest.fail("it was called"))
    memory = tmp_path / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "artstore-test", str(memory)], check=True)
    try:
        with opening(lambda: LocalBackend(LocalBackend.Settings(), make_context(memory))) as open_it:
            other = open_it()
            for store in (backend, other):
                writer = store.create(KEY)
                for _ in range(5):
                    writer.write(PIECES)
                writer.publish(SIDECAR)
                monkeypatch.setattr(preallocation, "MIN_FREE", 0)
    finally:
        subprocess.run(["umount", "--lazy", str(memory)], check=True)


def test_blocks_that_cannot_be_freed_fail_the_upload(
    backend: LocalBackend, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    writer = backend.create(KEY)
    for _ in range(5):
        writer.write(PIECES)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(Unavailable):
        writer.publish(SIDECAR)
    assert staged(volume) == []
    assert entries(backend) == {}
