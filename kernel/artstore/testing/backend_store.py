"""The store that the tests of `BackendSuite` work on: fixtures to override, keys, and assertions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import pytest

from artstore.errors import ArtstoreError, Conflict, NotFound
from artstore.ids import Key
from artstore.spi import RecoverableBackend, Span

Plant = Callable[[str, bytes | None, bytes | None], None]
_T = TypeVar("_T")

HOUR = "2025/01/11/15"
KEY = Key(f"{HOUR}/report_ivanov_20250111T153045_a1b2c3d4.pdf")
DATA, SIDECAR = b"the data", b'{"the": "sidecar"}'
LONGEST = Key(f"{HOUR}/{'x' * 192}_ivanov_20250111T153045_a1.pdf")
UNUSUAL_KEYS = [
    Key(f"{HOUR}/отчёт за год_иванов_20250111T153045_a1b2c3d4.pdf"),
    Key(f"{HOUR}/a b  c_ivanov_20250111T153045_a1b2c3d4.tar.gz"),
    Key(f"{HOUR}/\U0001f600\u4e2d\u6587_ivanov_20250111T153045_a1b2c3d4"),
    Key(f"{HOUR}/,,a,b~%41&=+#@!$'();[]{{}}^`_ivanov_20250111T153045_a1b2c3d4.x"),
    Key(f"{HOUR}/-rf_ivanov_20250111T153045_a1b2c3d4.pdf"),
    Key(f"{HOUR}/.hidden_ivanov_20250111T153045_a1b2c3d4.pdf"),
    Key(f"{HOUR}/lock"),
    Key(f"{HOUR}/~update~_ivanov_20250111T153045_a1b2c3d4.pdf"),
    LONGEST,
    Key("flat/report.pdf"),
    Key("a, b,,c/d,e/Ордер №1/report.pdf"),
]
INVALID_KEYS = [
    Key(text)
    for text in ("../report.pdf", "2025/../../report.pdf", "/etc/passwd", f"{HOUR}/..", f"{HOUR}//report.pdf")
]


def smoke(test: _T) -> _T:
    """Mark a test as one of the few that are run where each call is slow. See `smoke_only`."""
    test.smoke = True  # type: ignore[attr-defined]
    return test


def smoke_only(suite: _T) -> _T:
    """Switch all tests of a subclass of a suite off that are not marked `smoke`: a class decorator."""
    for name in dir(suite):
        if name.startswith("test_") and not hasattr(getattr(suite, name), "smoke"):
            setattr(suite, name, None)
    return suite


def key(n: int) -> Key:
    """Return the n-th key of one hour."""
    return Key(f"{HOUR}/report_ivanov_20250111T153045_{n:08x}.pdf")


def put(backend: RecoverableBackend, key: Key = KEY, data: bytes = DATA, sidecar: bytes = SIDECAR) -> None:
    """Publish a file."""
    writer = backend.create(key)
    try:
        writer.write(data)
    except BaseException:
        writer.abort()
        raise
    writer.publish(sidecar)  # it leaves nothing when it fails


def get(backend: RecoverableBackend, key: Key = KEY, span: Span | None = None) -> bytes:
    """Return the data of a file, or a span of it."""
    reader = backend.read(key)
    try:
        return b"".join(reader.pieces(span or Span(0, reader.size)))
    finally:
        reader.close()


def entries(backend: RecoverableBackend, directory: str = HOUR) -> dict[Key, tuple[bool, bool]]:
    """Return what a directory holds: key -> (data, sidecar)."""
    return {entry.key: (entry.data, entry.sidecar) for entry in backend.list(directory)}


def together(n: int, step: Callable[[int], Any]) -> list[Any]:
    """Run `step(0) ... step(n - 1)` at one moment, and return what each returned, or the `ArtstoreError` it raised."""
    barrier = threading.Barrier(n)

    def run(i: int) -> Any:
        barrier.wait()
        try:
            return step(i)
        except ArtstoreError as e:
            return e

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


class BackendFixtures:
    """The fixtures of the suite, to be overridden, and its assertions."""

    eventual: ClassVar[float] = 0.0
    """Seconds by which listings may lag (`list`, `list_directories`, `list_tombstones`). A read by key never lags."""

    unseen_syncs: ClassVar[bool] = False
    """The store is below `tmp_path`, but a library in C syncs it: no power cut can be shown."""

    @pytest.fixture
    def backend(self) -> RecoverableBackend:
        """Return a backend with an empty store. The fixture closes it."""
        raise NotImplementedError("override this fixture: return the backend under test")

    @pytest.fixture
    def plant(self) -> Plant | None:
        """Return a function that puts data or a sidecar or both under a key, without the backend; None if none can."""
        return None

    @pytest.fixture
    def reopen(self) -> Callable[[], RecoverableBackend] | None:
        """Return a function that ends `backend` as death would and opens its store again.

        It may be called again once the backend that it returned was closed. None for a store that dies with it.
        """
        return None

    @pytest.fixture
    def open_second(self) -> Callable[[], RecoverableBackend] | None:
        """Return a function that opens the store of `backend` a second time, as another process would; None if only one
        process can use a store."""
        return None

    @pytest.fixture
    def open_missing(self) -> Callable[[], RecoverableBackend] | None:
        """Return a function that opens a store that does not exist, with `Context.expects_store`; None when a backend
        has nothing to make when it is opened."""
        return None

    @pytest.fixture
    def unplug(self) -> Callable[[], None] | None:
        """Return a function that makes the store stop answering (its server ends, its disk goes); None if none can."""
        return None

    def assert_eventually(self, read: Callable[[], Any], expected: Any) -> None:
        """Fail unless a listing returns `expected` within `eventual` seconds."""
        deadline = time.monotonic() + self.eventual
        while (found := read()) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found == expected

    def assert_listed(
        self, backend: RecoverableBackend, expected: dict[Key, tuple[bool, bool]], directory: str = HOUR
    ) -> None:
        """Fail unless `directory` holds exactly `expected`: key -> (data, sidecar)."""
        self.assert_eventually(lambda: entries(backend, directory), expected)

    def assert_directories(self, backend: RecoverableBackend, expected: list[str], since: str = "") -> None:
        """Fail unless the directories from `since` on are exactly `expected`."""
        self.assert_eventually(lambda: list(backend.list_directories(since)), expected)

    def assert_tombstones(self, backend: RecoverableBackend, expected: list[Key]) -> None:
        """Fail unless exactly the keys `expected` were deleted and not purged."""
        self.assert_eventually(lambda: sorted(backend.list_tombstones()), expected)

    def assert_nothing(self, backend: RecoverableBackend, key: Key = KEY) -> None:
        """Fail unless there is no trace of `key`, and the key is free."""
        directory = key.rpartition("/")[0]
        self.assert_eventually(lambda: key in entries(backend, directory), False)
        with pytest.raises(NotFound):
            backend.read_sidecar(key)
        with pytest.raises(NotFound):
            backend.read(key)
        self.assert_free(backend, key)

    def assert_free(self, backend: RecoverableBackend, key: Key = KEY) -> None:
        """Fail unless a file can be published at `key`, or the keys of this backend are used once."""
        try:
            put(backend, key)
        except Conflict:
            assert not backend.capabilities.keys_reusable
        else:
            assert get(backend, key) == DATA
