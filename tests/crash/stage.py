"""Where workloads are recorded: a store in memory, the whole element on it, and a tape below."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from artstore import ids
from artstore.attr import Attr
from artstore.errors import ArtstoreError, Conflict, NotFound, Refused
from artstore.hookspecs import Provider, hookimpl
from artstore.host import boot
from artstore.host.plugins import Plugin, Registry
from artstore.host.settings import Configuration, load
from artstore.kernel import Kernel
from artstore.spi import SCOPES, Context, Principal
from artstore.testing.memory_auth import StaticAuth
from artstore.testing.memory_cache import MemoryCache
from artstore.upload import Upload
from artstore_local import backend as _backend  # noqa: F401
from artstore_naming import dated as _dated  # noqa: F401
from artstore_sql.sqlite import cache as _cache  # noqa: F401 - all imported before any fork
from crash.platter import Image
from crash.tape import DEAD, Tape

BY = Principal(id="1", name="ivanov", scopes=SCOPES)
Rows = tuple[dict[str, Attr], str | None]


class NoAuth(StaticAuth):
    """Authenticates no one: these tests send no requests, and a key pair costs more than a recovery."""

    def __init__(self, settings: BaseModel, context: Context) -> None:
        super().__init__()


class RowsCache(MemoryCache):
    """A cache that finds what `kept` says of its home when it is built, and leaves it there when it is closed."""

    kept: dict[Path, Rows] = {}  # noqa: RUF012

    def __init__(self, settings: BaseModel, context: Context) -> None:
        super().__init__(settings, context)
        rows, self._generation = self.kept.get(context.home, ({}, None))
        self._entries = dict(rows)
        self._home = context.home

    def close(self) -> None:
        self.kept[self._home] = self._entries, self._generation
        super().close()


class Offers:
    @hookimpl
    def artstore_auths(self) -> Iterable[Provider]:
        return [Provider(name="none", target="crash.stage:NoAuth", summary="no auth")]

    @hookimpl
    def artstore_caches(self) -> Iterable[Provider]:
        return [Provider(name="rows", target="crash.stage:RowsCache", summary="rows in memory")]


def _registry() -> Registry:
    registry = Registry()
    registry.load()
    registry.register(Plugin(name="crash", distribution="crash", version=""), Offers())
    return registry


REGISTRY = _registry()
boot.open_registry = lambda _settings: REGISTRY
SETTINGS = {
    cache: load(overrides={"auth.use": "none", "cache.use": cache}, environ={}).settings
    for cache in ("rows", "sql")
}


def open_node(home: Path, cache: str = "sql", mode: str = "edit") -> boot.Node:
    settings = SETTINGS[cache].model_copy(update={"mode": mode})
    return boot.open_node(Configuration(home=home, file=None, settings=settings))


class Clock:
    """The system clock of this process, set to `ahead` of what it is."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)
        self._now = ids.now
        for name, module in list(sys.modules.items()):
            if name.startswith("artstore") and getattr(module, "now", None) is self._now:
                module.now = self.now  # type: ignore[attr-defined]

    def now(self) -> datetime:
        return self._now() + self.ahead


CLOCK = Clock()


@dataclass
class Stage:
    """What a workload is given: it opens elements, asks them for changes, and all of it is on the tape."""

    home: Path
    tape: Tape
    files: list[dict[str, Any]]
    """Those there from the start, by their names."""
    mode: str = "edit"
    waiting: list[str] = field(default_factory=list)
    """Faults that were set and have not come."""
    _tokens: Iterator[int] = field(default_factory=itertools.count)

    def open(self) -> boot.Node:
        return open_node(self.home, mode=self.mode)

    def allow_power_loss(self) -> None:
        """Power may fail from here on."""
        self.tape.add("power")

    def clock(self, hours: float) -> None:
        """Set the clock `hours` ahead of what it is."""
        CLOCK.ahead = timedelta(hours=hours)
        self.tape.add("clock", hours)

    def process(self, run: Callable[[], None]) -> Callable[[], int]:
        """A process of its own that waits to be let go; the function returned does that, and returns its exit code.

        Made before this one opens an element: a fork would inherit its locks.
        """
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            _exit_after(run)

        def go() -> int:
            os.close(write)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        return go

    def die(self, op: str, where: str, nth: int = 1) -> None:
        """This process is gone before its `nth` operation `op` on a path that holds `where`."""
        self.on(op, where, lambda: os._exit(DEAD), nth)

    def fail(self, op: str, where: str, error: int = errno.EIO, nth: int = 1, times: int = 1) -> None:
        """That operation, and as many after it as `times` says, fail."""

        def refuse() -> None:
            raise OSError(error, os.strerror(error))

        self.on(op, where, refuse, nth, times)

    def shorten(self, where: str, size: int, times: int = 1) -> None:
        """Writes to that path write `size` bytes and no more."""
        self.on("write", where, lambda: size, times=times)

    def promise(self, kept: bool, what: str) -> None:
        """What has to be so in a running element."""
        if not kept:
            self.tape.add("promise", what)

    def on(self, op: str, where: str, do: Callable[[], int | None], nth: int = 1, times: int = 1) -> None:
        seen, before = itertools.count(1), self.tape.fault
        self.waiting.append(f"{op} {where}")

        def fault(what: str, path: str) -> OSError | int | None:
            if what == op and where in path and nth <= next(seen) < nth + times:
                if f"{op} {where}" in self.waiting:
                    self.waiting.remove(f"{op} {where}")
                try:
                    return do()
                except OSError as e:
                    return e
            return before(what, path)

        self.tape.fault = fault

    def ask(self, op: str, file_id: str, facts: dict[str, Any], do: Callable[[], Attr | None]) -> Attr | None:
        """Ask for a change, and write down what was said. None when it failed."""
        token = os.getpid(), next(self._tokens)
        self.tape.add("ask", token, op, file_id, facts)
        try:
            attr = do()
        except ArtstoreError as e:
            self.tape.add("failed", token, isinstance(e, Refused) and not isinstance(e, NotFound))
            return None
        self.tape.add("done", token, None if attr is None else json.loads(attr.encode()))
        return attr

    def upload(
        self, kernel: Kernel, name: str = "new.txt", *pieces: bytes, file_id: str | None = None
    ) -> Attr | None:
        try:
            session = kernel.begin(BY, filename=name, file_id=file_id)
            for piece in pieces:
                session.write(piece)
        except ArtstoreError:
            return None
        facts = {
            "file_id": session.file_id,
            "sha256": sha256(b"".join(pieces)).hexdigest(),
            "original_filename": name,
            "revision": 1,
        }
        if isinstance(session, Upload):
            self.tape.add("takes", session._reservation.name.key)
        return self.ask("upload", session.file_id, facts, lambda: session.commit()[0])

    def update(self, kernel: Kernel, file_id: str, text: str) -> Attr | None:
        facts = {"file_id": file_id, "description": text}
        return self.ask(
            "update", file_id, facts, lambda: kernel.update(BY, file_id, lambda _: {"description": text})
        )

    def delete(self, kernel: Kernel, file_id: str) -> None:
        self.ask("delete", file_id, {}, lambda: kernel.delete(BY, file_id, lambda _: None))

    def transition(self, kernel: Kernel, mode: Any, confirm: bool = False) -> None:
        def go() -> None:
            try:
                kernel.transition(BY, mode, confirm=confirm, reason="moved")
            except Conflict as e:
                if "already" not in e.detail:
                    raise

        self.ask("mode", mode.value, {}, go)

    def together(self, *steps: Callable[[], object]) -> None:
        """All at once, each in a thread."""
        with ThreadPoolExecutor(len(steps)) as pool:
            for done in [pool.submit(step) for step in steps]:
                done.result(60)


def _exit_after(run: Callable[[], None]) -> None:
    code = 0
    try:
        run()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


# --- trees and images ---


def read_tree(root: Path) -> Image:
    """All that lies below `root`, but the cache, which SQLite writes by itself, and counters."""
    image: Image = {}
    for path in sorted(root.rglob("*")):
        if not path.name.startswith("cache.db") and path.parent.name != "metrics":
            image[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return image


def write_tree(root: Path, image: Image) -> None:
    base = os.fspath(root)
    for path in sorted(image):
        content = image[path]
        if content is None:
            os.mkdir(f"{base}/{path}")
        else:
            fd = os.open(f"{base}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            try:
                if content:
                    os.write(fd, content)
            finally:
                os.close(fd)


@dataclass(frozen=True)
class Base:
    """A store before the tape begins, as a clean shutdown left it."""

    image: Image
    cache: tuple[bytes, bytes]
    files: list[dict[str, Any]]
    mode: str = "edit"


def prepare(root: Path, ages: Iterable[float], mode: str = "edit", chosen: str | None = None) -> Base:
    """A base with a file for each of `ages` (hours), made in a process of its own, then opened once more now."""
    root.mkdir()
    home = root / "home"

    def run() -> None:
        for n, age in enumerate(sorted(ages, reverse=True)):
            CLOCK.ahead = timedelta(hours=-age)
            node = open_node(home, mode=mode)
            session = node.kernel.begin(BY, filename=f"old-{n}.txt", file_id=chosen if n == 0 else None)
            session.write(b"old" * n)
            session.commit(description="old")
            node.close()
        CLOCK.ahead = timedelta(0)
        open_node(home, mode=mode).close()

    child = os.fork()
    if child == 0:
        _exit_after(run)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    files = sorted(
        (json.loads(p.read_bytes()) for p in (home / "files").glob("2*/*/*/*/*.attr.json")),
        key=lambda attr: str(attr["original_filename"]),
    )
    state = home / "state"
    cache = tuple(p.read_bytes() if p.exists() else b"" for p in (state / "cache.db", state / "cache.db-wal"))
    base = Base(read_tree(root), (cache[0], cache[1]), files, mode)
    shutil.rmtree(root)
    return base


def put_cache(home: Path, cache: tuple[bytes, bytes]) -> None:
    for name, content in zip(("cache.db", "cache.db-wal"), cache, strict=True):
        if content:
            (home / "state" / name).write_bytes(content)


@dataclass(frozen=True)
class Recording:
    base: Base
    inodes: dict[str, int]
    root: int
    lines: list[tuple[Any, ...]]
    end: Image
    """The tree as it was when the workload had ended."""


def record(workload: Callable[[Stage], None], base: Base, work: Path) -> Recording:
    """Run a workload in a process of its own, and write down all it does."""
    root = work / "root"
    root.mkdir()
    write_tree(root, base.image)
    if (root / "home" / "state").is_dir():
        put_cache(root / "home", base.cache)
    inodes = {path: (root / path).stat().st_ino for path in base.image}
    tape = Tape(root, work / "tape")
    number = root.stat().st_ino
    child = os.fork()
    if child == 0:

        def run() -> None:
            stage = Stage(root / "home", tape, base.files, mode=base.mode)
            tape.install()
            workload(stage)
            tape.add("idle", stage.waiting)

        _exit_after(run)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"{workload.__name__} failed with {code}"
    lines, end = tape.read(), read_tree(root)
    shutil.rmtree(root)
    for left in work.glob("tape*"):
        left.unlink()
    return Recording(base, inodes, number, lines, end)
