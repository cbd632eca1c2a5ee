"""Blocks that large uploads take ahead on ext4: none stay behind, none are missing from a volume that is full."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artstore.errors import StorageFull, Unavailable
from artstore.spi import PIECE
from artstore.testing import make_context
from artstore.testing.backend import KEY, SIDECAR, entries, key
from artstore_local import preallocation
from artstore_local.backend import LocalBackend
from support.stores import opening

Open = Callable[[], LocalBackend]
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
def open_(volume: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setattr(preallocation, "ROOM", 0)
    with opening(lambda: LocalBackend(LocalBackend.Settings(), make_context(volume))) as open_it:
        yield open_it


@pytest.fixture
def backend(open_: Open) -> LocalBackend:
    return open_()


def staged(volume: Path) -> list[Path]:
    place = volume / "files" / ".artstore" / "staging"
    return [p for p in place.rglob("*") if p.is_file() and p.name != "lock"]


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def commit(volume: Path) -> None:
    """ext4 gives blocks away only once their release was committed."""
    fd = os.open(volume, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def written(free: int, volume: Path) -> int:
    """Bytes that the volume lost since it had `free`."""
    found = os.statvfs(volume)
    return free - found.f_bavail * found.f_frsize


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 3 * PIECE, 7 * PIECE + 4097, 41 * PIECE + 5])
def test_a_published_file_has_no_block_behind_its_end(backend: LocalBackend, volume: Path, size: int) -> None:
    writer = backend.create(KEY)
    took = 0
    for start in range(0, size, PIECE):
        writer.write(PIECES[: size - start])
        (file,) = staged(volume)
        assert file.stat().st_size == min(size, start + PIECE)
        took = max(took, backend._ahead.unwritten())
        assert backend._ahead.unwritten() <= min(preallocation.AHEAD, file.stat().st_size)
        assert allocated(file) >= (start + backend._ahead.unwritten() if took else 0)
    assert (took > 0) == (size > PIECE)
    writer.publish(SIDECAR)
    assert backend._ahead.unwritten() == 0
    published = volume / "files" / KEY
    assert published.stat().st_size == size
    assert size <= allocated(published) < size + SLACK
    with published.open("rb") as f:
        for start in range(0, size, PIECE):
            assert f.read(PIECE) == PIECES[: size - start]


def test_what_is_lent_counts_as_free(backend: LocalBackend, volume: Path) -> None:
    """Or a large file could be refused half-way for the room that it holds itself."""
    before = backend.free_bytes()
    assert before is not None
    writer = backend.create(KEY)
    for n in range(1, 21):
        writer.write(PIECES)
        free = backend.free_bytes()
        assert free is not None
        assert n * PIECE - 2 * PIECE < before - free < n * PIECE + SLACK
    assert written(before, volume) > 20 * PIECE + (4 << 20)
    writer.publish(SIDECAR)
    assert 20 * PIECE <= written(before, volume) < 20 * PIECE + SLACK


def test_an_abort_gives_back_all(backend: LocalBackend, volume: Path) -> None:
    for n in range(6):  # more than the volume has, were they kept
        writer = backend.create(key(n))
        for _ in range(20):
            writer.write(PIECES)
        writer.abort()
        assert backend._ahead.unwritten() == 0
        commit(volume)
    assert staged(volume) == []


def test_a_full_volume_takes_as_much_as_without(
    open_: Open, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fits(backend: LocalBackend) -> int:
        writer = backend.create(KEY)
        size = 0
        try:
            while True:
                writer.write(PIECES[: 64 << 10])
                size += 64 << 10
        except StorageFull:
            writer.abort()
        commit(volume)
        assert entries(backend) == {}
        assert backend._ahead.unwritten() == 0
        return size

    first = open_()
    with_blocks = fits(first)
    first.close()
    monkeypatch.setattr(preallocation, "_fallocate", None)
    assert with_blocks > 64 << 20
    assert abs(fits(open_()) - with_blocks) <= SLACK


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EIO])
def test_where_none_can_be_had_the_upload_does_without(
    backend: LocalBackend, volume: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asked = []

    def refused(*call: int) -> int:
        asked.append(call)
        preallocation.ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(preallocation, "_fallocate", refused)
    writer = backend.create(KEY)
    for _ in range(5):
        writer.write(PIECES)
    writer.publish(SIDECAR)
    assert len(asked) == 1
    assert (volume / "files" / KEY).read_bytes() == 5 * PIECES


def test_a_volume_that_is_nearly_full_lends_nothing(
    backend: LocalBackend, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preallocation, "ROOM", 1 << 30)
    writer = backend.create(KEY)
    for _ in range(5):
        writer.write(PIECES)
        assert backend._ahead.unwritten() == 0
    writer.publish(SIDECAR)


def test_other_file_systems_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "artstore-test", str(place)], check=True)
    monkeypatch.setattr(preallocation, "ROOM", 0)
    monkeypatch.setattr(preallocation, "_fallocate", lambda *_: pytest.fail("it was asked"))
    try:
        backend = LocalBackend(LocalBackend.Settings(), make_context(place))
        writer = backend.create(KEY)
        for _ in range(5):
            writer.write(PIECES)
        writer.publish(SIDECAR)
        backend.close()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_blocks_that_cannot_be_given_back_fail_the_upload(
    backend: LocalBackend, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    writer = backend.create(KEY)
    for _ in range(5):
        writer.write(PIECES)
    monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(Unavailable):
        writer.publish(SIDECAR)
    assert staged(volume) == []
    assert entries(backend) == {}
    assert backend._ahead.unwritten() == 0
