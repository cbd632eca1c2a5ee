"""The backend suite, held to every backend of this project."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from artstore.spi import Backend
from artstore.testing import BackendSuite, MemoryBackend, make_context
from artstore.testing.backend import smoke_only
from artstore.testing.memory_backend import Kept, MemoryStore
from artstore_fsspec.backend import FsspecBackend
from artstore_fsspec.protocols import connect
from artstore_local.backend import LocalBackend
from artstore_s3.backend import S3Backend
from artstore_s3.settings import S3Settings
from support import s3, sftp
from support.stores import InFiles, InS3, Lay, Plant, Store


class TestMemoryBackend(Store, BackendSuite):
    closes = True

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def make(self, store: MemoryStore) -> Callable[[], Backend]:
        return lambda: MemoryBackend(store=store)

    @pytest.fixture
    def plant(self, store: MemoryStore) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            if data is not None:
                store.data[key] = Kept(data)
            if sidecar is not None:
                store.sidecars[key] = Kept(sidecar)

        return plant

    @pytest.fixture
    def unplug(self, backend: Backend) -> Callable[[], None]:
        return backend.close


class TestLocalBackend(InFiles, BackendSuite):
    closes = True

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Backend]:
        return lambda: LocalBackend(LocalBackend.Settings(), make_context(tmp_path))

    @pytest.fixture
    def open_missing(self, tmp_path: Path) -> Callable[[], Backend]:
        root = tmp_path / "unmounted"
        expecting = replace(make_context(tmp_path), expects_store=True)

        def open_missing() -> Backend:
            try:
                return LocalBackend(LocalBackend.Settings(root=root), expecting)
            finally:
                assert not root.exists()

        return open_missing


class TestFsspecInMemory(Store, BackendSuite):
    """A file system with the fewest guarantees, in the memory of this process."""

    @pytest.fixture
    def place(self) -> Iterator[str]:
        name = f"/{secrets.token_hex(8)}"
        yield name
        fsspec.filesystem("memory").rm(name, recursive=True)

    @pytest.fixture
    def make(self, tmp_path: Path, place: str) -> Callable[[], Backend]:
        settings = FsspecBackend.Settings(url=f"memory:/{place}", allow_missing_guarantees=True)
        return lambda: FsspecBackend(settings, make_context(tmp_path))

    @pytest.fixture
    def lay(self, place: str) -> Lay:
        fs = fsspec.filesystem("memory")
        return lambda name, content: fs.pipe_file(f"{place}/{name}", content)


class TestFsspecInFiles(InFiles, BackendSuite):
    """Files without fsync: replaced whole, but not durable."""

    below = "store"

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Backend]:
        settings = FsspecBackend.Settings(url=f"file://{tmp_path}/store", allow_missing_guarantees=True)
        return lambda: FsspecBackend(settings, make_context(tmp_path))

    @pytest.fixture
    def open_missing(self, tmp_path: Path) -> Callable[[], Backend]:
        root = tmp_path / "unmounted"
        settings = FsspecBackend.Settings(url=f"file://{root}", allow_missing_guarantees=True)

        def open_missing() -> Backend:
            assert not root.exists()
            return FsspecBackend(settings, replace(make_context(tmp_path), expects_store=True))

        return open_missing

    def test_an_upload_that_fails_while_it_locks_a_name_unlocks_it(
        self, backend: Backend, reopen: Callable[[], Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("artstore_fsspec.namespace._LOCKS", 1)  # all names share one lock
        self.test_a_failed_system_call_is_translated_and_leaves_nothing(backend, reopen, tmp_path, errno.EIO)


class FsspecSuite(Store, BackendSuite):
    """The suite for a store behind a URL. Foreign files come into it by fsspec too."""

    @pytest.fixture
    def settings(self) -> FsspecBackend.Settings:
        raise NotImplementedError

    @pytest.fixture
    def make(self, tmp_path: Path, settings: FsspecBackend.Settings) -> Callable[[], Backend]:
        return lambda: FsspecBackend(settings, make_context(tmp_path))

    @pytest.fixture
    def lay(self, settings: FsspecBackend.Settings) -> Lay:
        def lay(name: str, content: bytes) -> None:
            fs, root = connect(settings.url.get_secret_value(), settings.options)
            fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            fs.pipe_file(f"{root}/{name}", content)

        return lay


class OverSftp(FsspecSuite):
    """What threads, renames and deletions of files on another machine may break."""

    @pytest.fixture
    def settings(self, tmp_path: Path, sftp_server: sftp.Sftp) -> FsspecBackend.Settings:
        return FsspecBackend.Settings(url=sftp_server.url(tmp_path / "store"), allow_missing_guarantees=True)


@smoke_only
class TestFsspecOverSftp(OverSftp):
    """A few tests of the suite: each call is slow."""


@pytest.mark.long
class TestFsspecOverSftpWhole(OverSftp):
    """The whole suite."""


if ELSEWHERE := os.environ.get("URLS_STORE"):

    class TestFsspecElsewhere(FsspecSuite):
        """Any store: `URLS_STORE` is `[backend.fsspec]` as JSON."""

        @pytest.fixture
        def settings(self) -> FsspecBackend.Settings:
            settings = json.loads(ELSEWHERE)
            settings["url"] += f"/{secrets.token_hex(6)}"
            return FsspecBackend.Settings.model_validate(settings)


class TestS3Backend(InS3, BackendSuite):
    """Against a real server."""

    @pytest.fixture
    def make(self, tmp_path: Path, settings: S3Settings) -> Callable[[], Backend]:
        return lambda: S3Backend(settings, make_context(tmp_path))

    @pytest.fixture
    def open_missing(
        self, tmp_path: Path, settings: S3Settings, s3_server: s3.Seaweed, bucket: str
    ) -> Callable[[], Backend]:
        elsewhere = settings.model_copy(update={"prefix": "se-02/"})

        def open_missing() -> Backend:
            assert "Contents" not in s3_server.client.list_objects_v2(Bucket=bucket, Prefix="se-02/")
            return S3Backend(elsewhere, replace(make_context(tmp_path), expects_store=True))

        return open_missing
