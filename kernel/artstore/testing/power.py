"""What a power cut would leave of a store in local files, and calls that fail: for `BackendSuite`.

The model is the hostile one of Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014): content is
durable once its file was synced, a name once its directory was; a rename is atomic. Syncs are seen where they
are called as `os.fsync` and `os.fdatasync`, from any thread of this process, and nowhere else.
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
from pathlib import Path
from typing import Any

_SYNCS = ("fsync", "fdatasync")

Image = dict[str, bytes | None]
"""Relative path -> content, None for a directory."""


class Disk:
    """The files below `root`, and what of them is durable. All that is there at first is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._held: list[int] = []
        self._known: dict[int, int] = {}
        """Inode -> a descriptor of it: while one is open the number is not given to another file."""
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self.images: list[Image] = []
        """What a power cut could have left at each sync so far, just before it."""
        for path in (root, *root.rglob("*")):
            self._look(path, durable=True)

    def __enter__(self) -> Disk:
        self._calls = (os.fsync, os.fdatasync)
        for name, call in zip(_SYNCS, self._calls, strict=True):
            setattr(os, name, self._watched(call))
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in zip(_SYNCS, self._calls, strict=True):
            setattr(os, name, call)
        for fd in self._known.values():
            os.close(fd)

    def _watched(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(file: Any) -> None:
            fd = file if isinstance(file, int) else file.fileno()
            with self._lock:
                self.images += self.cut()
                seen = self._read(fd)
            call(fd)
            with self._lock:
                self._settle(os.fstat(fd).st_ino, seen)

        return sync

    def cut(self) -> list[Image]:
        """What a power cut, or the end of the process, could leave now."""
        with self._lock:
            now = self._now()
            return [now, self._synced(now), self._torn(now)]

    def restore(self, image: Image) -> None:
        """Make `image` what lies below `root`."""
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

    # --- what is there, what is durable ---

    def _look(self, path: Path, *, durable: bool = False) -> int | None:
        """The inode at `path`, held from now on; None for what is gone, or neither file nor directory."""
        try:
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return None
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        inode = os.fstat(fd).st_ino
        if durable:
            self._settle(inode, self._read(fd))
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
                inode = self._look(Path(f"/proc/self/fd/{again}") / name)
                if inode is not None:
                    names[name] = inode
            return names
        finally:
            os.close(again)

    def _settle(self, inode: int, seen: bytes | dict[str, int]) -> None:
        if isinstance(seen, bytes):
            self._content[inode] = seen
        else:
            self._names[inode] = seen

    def _now(self) -> Image:
        image: Image = {}
        for path in sorted(self._root.rglob("*")):
            inode = self._look(path)
            if inode is not None:
                seen = self._read(self._known[inode])
                image[str(path.relative_to(self._root))] = seen if isinstance(seen, bytes) else None
        return image

    def _synced(self, now: Image) -> Image:
        """Nothing but what was synced. Of a file that was renamed one name is left."""
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
        """Every name, and half of each content that was not synced: of a file written in place too."""
        image: Image = {}
        for path, content in now.items():
            inode = self._look(self._root / path)
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
_hooked = threading.Lock()


class _Trap:
    """Counts the calls of this process that concern files, and makes one of them fail."""

    def __init__(self, number: int, error: int) -> None:
        self._left = number
        self._error = error
        self._lock = threading.Lock()
        self.sprung = False

    def step(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
            self.sprung = True
        raise OSError(self._error, os.strerror(self._error))


@contextmanager
def failing(number: int, root: Path, error: int = errno.EIO) -> Iterator[_Trap]:
    """Within it the `number`-th call that touches a file below `root`, or a file by a descriptor, fails.

    Seen are `os.write`, `os.fsync`, `os.fdatasync`, and whatever opens, lists, renames or removes (by audit events).
    """
    global _armed  # noqa: PLW0603 - an audit hook cannot be taken away, so there is one, and it looks here
    trap = _Trap(number, error)
    calls = {name: getattr(os, name) for name in _CALLS}

    def failing_first(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            trap.step()
            return call(*args)

        return called

    with _hooked:
        if not getattr(sys, "_artstore_traps", False):
            sys.addaudithook(_audit)
            sys._artstore_traps = True  # type: ignore[attr-defined]
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
