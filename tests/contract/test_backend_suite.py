"""The backend suite, held against every backend of ours."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import s3
import sftp
from artstore.attr import SIDECAR_SUFFIX
from artstore.spi import Backend
from artstore.testing import BackendSuite, MemoryBackend, make_context
from artstore.testing.memory_backend import Kept, MemoryStore
from artstore_fsspec.backend import FsspecBackend
from artstore_fsspec.protocols import connected
from artstore_local.backend import LocalBackend
from artstore_s3.backend import S3Backend
from artstore_s3.settings import S3Settings

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
    def unplug(self, backend: Backend) -> Callable[[], None]:
        return backend.close

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


class TestFsspecInMemory(BackendSuite):
    """The weakest file system there is, and one that lives in this process."""

    @pytest.fixture
    def place(self) -> Iterator[str]:
        name = f"/{secrets.token_hex(8)}"
        yield name
        fsspec.filesystem("memory").rm(name, recursive=True)

    @pytest.fixture
    def opened(self, tmp_path: Path, place: str) -> Callable[[], FsspecBackend]:
        settings = FsspecBackend.Settings(url=f"memory:/{place}", accept_weaker=True)
        return lambda: FsspecBackend(settings, make_context(tmp_path))

    @pytest.fixture
    def backend(self, opened: Callable[[], FsspecBackend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, place: str) -> Plant:
        fs = fsspec.filesystem("memory")

        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            for name, content in ((key, data), (key + SIDECAR_SUFFIX, sidecar)):
                if content is not None:
                    fs.pipe_file(f"{place}/{name}", content)

        return plant

    @pytest.fixture
    def reopen(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened

    @pytest.fixture
    def neighbour(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened


class TestFsspecInFiles(BackendSuite):
    """Files without fsync: whole, not durable."""

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[[], FsspecBackend]:
        settings = FsspecBackend.Settings(url=f"file://{tmp_path}/store", accept_weaker=True)
        return lambda: FsspecBackend(settings, make_context(tmp_path))

    @pytest.fixture
    def backend(self, opened: Callable[[], FsspecBackend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, tmp_path: Path) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            for name, content in ((key, data), (key + SIDECAR_SUFFIX, sidecar)):
                if content is not None:
                    path = tmp_path / "store" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)

        return plant

    @pytest.fixture
    def reopen(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened

    @pytest.fixture
    def neighbour(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened

    def test_who_gives_up_while_it_holds_a_name_waits_for_nobody(
        self, backend: Backend, reopen: Callable[[], Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("artstore_fsspec.files._SHARDS", 1)  # all names share one lock
        self.test_a_call_that_fails_is_told_in_our_words_and_leaves_nothing(
            backend, reopen, tmp_path, errno.EIO
        )


class FsspecSuite(BackendSuite):
    """Of a store behind a URL, which a stranger reaches by fsspec as well."""

    @pytest.fixture
    def settings(self) -> FsspecBackend.Settings:
        raise NotImplementedError

    @pytest.fixture
    def opened(
        self, tmp_path: Path, settings: FsspecBackend.Settings
    ) -> Iterator[Callable[[], FsspecBackend]]:
        backends: list[FsspecBackend] = []

        def open_it() -> FsspecBackend:
            backends.append(FsspecBackend(settings, make_context(tmp_path)))
            return backends[-1]

        yield open_it
        for backend in backends:
            backend.close()

    @pytest.fixture
    def backend(self, opened: Callable[[], FsspecBackend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, settings: FsspecBackend.Settings) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            fs, root = connected(settings.url.get_secret_value(), settings.options)
            for name, content in ((key, data), (key + SIDECAR_SUFFIX, sidecar)):
                if content is not None:
                    fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                    fs.pipe_file(f"{root}/{name}", content)

        return plant

    @pytest.fixture
    def reopen(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened

    @pytest.fixture
    def neighbour(self, opened: Callable[[], FsspecBackend]) -> Callable[[], Backend]:
        return opened


class TestFsspecOverSftp(FsspecSuite):
    """What threads, renames and deletions of another machine's files may break; with URLS_FULL all of it."""

    @pytest.fixture
    def settings(self, tmp_path: Path, sftp_server: sftp.Sftp) -> FsspecBackend.Settings:
        return FsspecBackend.Settings(url=sftp_server.url(tmp_path / "store"), accept_weaker=True)


SFTP = {
    "test_what_was_published_is_there",
    "test_abort_leaves_nothing",
    "test_of_many_writers_of_one_key_one_wins",
    "test_odd_names_work_everywhere",
    "test_many_writers_of_many_keys_do_not_disturb_each_other",
    "test_no_replacement_is_lost_among_neighbours",
    "test_spans",
    "test_a_reader_sees_the_old_sidecar_or_the_new_one",
    "test_an_entombed_file_is_deleted",
    "test_quarantine_takes_whatever_is_there",
    "test_data_stays_readable_while_it_is_removed",
    "test_everything_outlives_the_process",
    "test_what_a_stranger_left_is_listed_and_left_alone",
    "test_an_upload_settled_under_its_writer_stays_undone",
    "test_at_no_step_of_a_replacement_half_a_sidecar_is_seen",
}
for name in dir(BackendSuite):
    if name.startswith("test_") and name not in SFTP and not os.environ.get("URLS_FULL"):
        setattr(TestFsspecOverSftp, name, None)


if ELSEWHERE := os.environ.get("URLS_STORE"):

    class TestFsspecElsewhere(FsspecSuite):
        """Whatever store is told: `[backend.fsspec]` as JSON."""

        @pytest.fixture
        def settings(self) -> FsspecBackend.Settings:
            told = json.loads(ELSEWHERE)
            told["url"] += f"/{secrets.token_hex(6)}"
            return FsspecBackend.Settings.model_validate(told)


class TestS3Backend(BackendSuite):
    """Against a real server."""

    @pytest.fixture
    def bucket(self, s3_server: s3.Seaweed) -> str:
        return s3_server.bucket()

    @pytest.fixture
    def opened(self, tmp_path: Path, s3_server: s3.Seaweed, bucket: str) -> Iterator[Callable[[], S3Backend]]:
        backends: list[S3Backend] = []
        settings = S3Settings.model_validate(s3.settings(s3_server, bucket, prefix="se-01"))

        def open_it() -> S3Backend:
            backends.append(S3Backend(settings, make_context(tmp_path)))
            return backends[-1]

        yield open_it
        for backend in backends:
            backend.close()

    @pytest.fixture
    def backend(self, opened: Callable[[], S3Backend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, s3_server: s3.Seaweed, bucket: str) -> Plant:
        client = s3_server.client

        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            for name, content in ((key, data), (key + SIDECAR_SUFFIX, sidecar)):
                if content is not None:
                    client.put_object(Bucket=bucket, Key=f"se-01/{name}", Body=content)

        return plant

    @pytest.fixture
    def reopen(self, backend: Backend, opened: Callable[[], S3Backend]) -> Callable[[], Backend]:
        return opened

    @pytest.fixture
    def neighbour(self, opened: Callable[[], S3Backend]) -> Callable[[], Backend]:
        return opened
