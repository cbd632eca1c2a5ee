"""Computes what a power loss would leave of a store in local files, and makes system calls fail, for the suites.

The model is the hostile one of Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014): content is
durable after a sync of its file, a name after a sync of its directory; a rename is atomic. Only
syncs that a thread of this process calls as `os.fsync` or `os.fdatasync` are seen.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_SYNCS = ("fsync", "fdatasync")

Image = dict[str, bytes | None]
"""Relative path -> content, None for a directory."""


class Disk:
    """The files below `root`, and what of them is durable: at first everything."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._held: list[int] = []
        self._known: dict[int, int] = {}
        """Inode -> a descriptor of it. While one is open, the system does not give the number to another file."""
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self.images: list[Image] = []
        """What a power loss could have left just before each sync so far."""
        for path in (root, *root.rglob("*")):
            self._open_inode(path, durable=True)

    def __enter__(self) -> Disk:
        self._calls = (os.fsync, os.fdatasync)
        for name, call in zip(_SYNCS, self._calls, strict=True):
            setattr(os, name, self._watch(call))
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in zip(_SYNCS, self._calls, strict=True):
            setattr(os, name, call)
        for fd in self._known.values():
            os.close(fd)

    def _watch(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(file: Any) -> None:
            fd = file if isinstance(file, int) else file.fileno()
            with self._lock:
                self.images += self.cut()
                seen = self._read(fd)
            call(fd)
            with self._lock:
                self._record(os.fstat(fd).st_ino, seen)

        return sync

    def cut(self) -> list[Image]:
        """Return what a power loss, or the end of the process, could leave now."""
        with self._lock:
            now = self._now()
            return [now, self._synced(now), self._torn(now)]

    def restore(self, image: Image) -> None:
        """Replace everything below `root` by `image`."""
        for path in self._root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name in sorted(image):
            path, content = self._root / name, image[name]
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    # --- what exists, what is durable ---

    def _open_inode(self, path: Path, *, durable: bool = False) -> int | None:
        """Return the inode at `path`, and keep it open; None if there is no file and no directory."""
        try:
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return None
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        inode = os.fstat(fd).st_ino
        if durable:
            self._record(inode, self._read(fd))
        if inode in self._known:
            os.close(fd)
        else:
            self._known[inode] = fd
        return inode

    def _read(self, fd: int) -> bytes | dict[str, int]:
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(again).st_mode):
                return b"".join(iter(lambda: os.read(again, 1 << 20), b""))
            names: dict[str, int] = {}
            for name in os.listdir(again):
                inode = self._open_inode(Path(f"/proc/self/fd/{again}") / name)
                if inode is not None:
                    names[name] = inode
            return names
        finally:
            os.close(again)

    def _record(self, inode: int, seen: bytes | dict[str, int]) -> None:
        if isinstance(seen, bytes):
            self._content[inode] = seen
        else:
            self._names[inode] = seen

    def _now(self) -> Image:
        image: Image = {}
        for path in sorted(self._root.rglob("*")):
            inode = self._open_inode(path)
            if inode is not None:
                seen = self._read(self._known[inode])
                image[str(path.relative_to(self._root))] = seen if isinstance(seen, bytes) else None
        return image

    def _synced(self, now: Image) -> Image:
        """Return only what was synced. A renamed file keeps one of its names."""
        found: list[tuple[str, int]] = []

        def walk(inode: int, under: str) -> None:
            for name, child in self._names.get(inode, {}).items():
                found.append((f"{under}{name}", child))
                walk(child, f"{under}{name}/")

        walk(os.stat(self._root).st_ino, "")
        places: dict[int, list[str]] = {}
        for path, inode in found:
            places.setdefault(inode, []).append(path)
        image: Image = {}
        for inode, paths in places.items():
            directory = stat.S_ISDIR(os.fstat(self._known[inode]).st_mode)
            for path in [p for p in paths if p in now] or paths[:1]:
                image[path] = None if directory else self._content.get(inode, b"")
        return image

    def _torn(self, now: Image) -> Image:
        """Return every name, and half of each content that was not synced, also of a file written in place."""
        image: Image = {}
        for path, content in now.items():
            inode = self._open_inode(self._root / path)
            if content is None or inode is None or self._content.get(inode) == content:
                image[path] = content
            else:
                image[path] = content[: len(content) // 2]
        return image


# --- calls that fail --------------------------------------------------------------------------------------

_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
_EVENTS |= {"os.listdir", "os.scandir"}
_CALLS = ("write", "fsync", "fdatasync")
_armed: _Trap | None = None


class _Trap:
    """Counts the system calls of this process that concern files, and makes one of them fail."""

    def __init__(self, number: int, error: int) -> None:
        self._left = number
        self._error = error
        self._lock = threading.Lock()
        self.has_failed = False

    def step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            self.has_failed = True
        raise OSError(self._error, os.strerror(self._error))


@contextmanager
def failing(number: int, root: Path, error: int = errno.EIO) -> Iterator[_Trap]:
    """Make the `number`-th call fail that concerns a file below `root`, or a file by its descriptor.

    It sees `os.write`, `os.fsync`, `os.fdatasync`, and, by audit events, what opens, lists, renames or removes.
    """
    global _armed  # noqa: PLW0603 - the one audit hook reads it
    trap = _Trap(number, error)
    calls = {name: getattr(os, name) for name in _CALLS}

    def failing_first(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            trap.step()
            return call(*args)

        return called

    _install_hook()
    _ROOT[:] = [os.fspath(root)]
    for name, call in calls.items():
        setattr(os, name, failing_first(call))
    _armed = trap
    try:
        yield trap
    finally:
        _armed = None
        for name, call in calls.items():
            setattr(os, name, call)


_ROOT = [""]


@cache
def _install_hook() -> None:
    """Install the audit hook, once: it cannot be removed."""
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    trap = _armed
    if trap is None or event not in _EVENTS or not args:
        return
    path = args[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, int) or (
        isinstance(path, str) and (not path.startswith("/") or path.startswith(_ROOT[0]))
    ):
        trap.step()
