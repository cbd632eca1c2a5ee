"""The backend suite, held against every backend of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artstore.attr import SIDECAR_SUFFIX
from artstore.spi import Backend
from artstore.testing import BackendSuite, MemoryBackend, make_context
from artstore.testing.memory_backend import Kept, MemoryStore
from artstore_local.backend import LocalBackend

Plant = Callable[[str, bytes | None, bytes | None], None]


class TestMemoryBackend(BackendSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def backend(self, store: MemoryStore) -> Backend:
        return MemoryBackend(store=store)

    @pytest.fixture
    def plant(self, store: MemoryStore) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            if data is not None:
                store.data[key] = Kept(data)
            if sidecar is not None:
                store.sidecars[key] = Kept(sidecar)

        return plant

    @pytest.fixture
    def reopen(self, backend: Backend, store: MemoryStore) -> Callable[[], Backend]:
        def reopen() -> Backend:
            backend.close()
            return MemoryBackend(store=store)

        return reopen

    @pytest.fixture
    def neighbour(self, store: MemoryStore) -> Callable[[], Backend]:
        return lambda: MemoryBackend(store=store)


class TestLocalBackend(BackendSuite):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Callable[[], LocalBackend]]:
        backends: list[LocalBackend] = []

        def open_it() -> LocalBackend:
            backends.append(LocalBackend(LocalBackend.Settings(), make_context(tmp_path)))
            return backends[-1]

        yield open_it
        for backend in backends:
            backend.close()

    @pytest.fixture
    def backend(self, opened: Callable[[], LocalBackend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, tmp_path: Path) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            path = tmp_path / "files" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            if data is not None:
                path.write_bytes(data)
            if sidecar is not None:
                path.with_name(path.name + SIDECAR_SUFFIX).write_bytes(sidecar)

        return plant

    @pytest.fixture
    def reopen(self, backend: Backend, opened: Callable[[], LocalBackend]) -> Callable[[], Backend]:
        def reopen() -> Backend:
            backend.close()
            return opened()

        return reopen

    @pytest.fixture
    def neighbour(self, opened: Callable[[], LocalBackend]) -> Callable[[], Backend]:
        return opened
