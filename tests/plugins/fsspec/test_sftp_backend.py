"""A store over SFTP whose server goes, falls silent, or wants another password."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from artstore.errors import ConfigError, Unavailable
from artstore.testing import make_context
from artstore.testing.backend import KEY, SIDECAR, get, key, put
from artstore_fsspec import protocols
from artstore_fsspec.backend import FsspecBackend
from support.ports import free_port
from support.sftp import PASSWORD, Sftp, sftp


@pytest.fixture
def server() -> Iterator[Sftp]:
    """One that a test may end."""
    with sftp() as begun:
        yield begun


def opened(url: str, tmp_path: Path) -> FsspecBackend:
    settings = FsspecBackend.Settings(url=url, allow_missing_guarantees=True)
    return FsspecBackend(settings, make_context(tmp_path))


def assert_unavailable(backend: FsspecBackend) -> None:
    for step in (
        lambda: put(backend, key(1)),
        lambda: backend.read_sidecar(KEY),
        lambda: backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR),
        lambda: backend.delete(KEY, if_match=SIDECAR),
        lambda: get(backend),
        lambda: backend.check(writing=False),
    ):
        with pytest.raises(Unavailable) as told:
            step()
        assert PASSWORD not in str(told.value)


def test_a_server_that_went_and_came_back(tmp_path: Path, server: Sftp) -> None:
    backend = opened(server.url(tmp_path / "store"), tmp_path)
    put(backend)
    server.stop()
    assert_unavailable(backend)
    server.start()
    backend.check(writing=True)
    assert (backend.read_sidecar(KEY), get(backend)) == (SIDECAR, b"the data")
    put(backend, key(2))
    backend.close()


def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    tmp_path: Path, server: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "SFTP_TIMEOUT", 0.3)
    backend = opened(server.url(tmp_path / "store"), tmp_path)
    put(backend)
    writer = backend.create(key(2))
    server.stop(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        writer.write(b"x")
    writer.abort()
    assert_unavailable(backend)
    server.stop(signal.SIGCONT)
    monkeypatch.setattr(protocols, "SFTP_TIMEOUT", 15.0)
    assert (backend.read_sidecar(KEY), get(backend)) == (SIDECAR, b"the data")
    put(backend, key(2))
    backend.close()


def test_a_store_that_cannot_be_opened(tmp_path: Path, sftp_server: Sftp) -> None:
    url = sftp_server.url(tmp_path / "store")
    for wrong, says in (
        (sftp_server.url(tmp_path / "store", password="hunter2"), "Authentication"),
        (url.replace(str(sftp_server.port), str(free_port())), "Unable to connect"),
        (url.replace("127.0.0.1", "nosuch.invalid"), "not known|Temporary failure|resolution"),
    ):
        with pytest.raises(Unavailable, match=says) as told:
            opened(wrong, tmp_path)
        assert not any(secret in str(told.value) for secret in (PASSWORD, "hunter2"))
    settings = FsspecBackend.Settings(url=url, options={"no_such": 1}, allow_missing_guarantees=True)
    with pytest.raises(ConfigError, match="cannot open a store"):
        FsspecBackend(settings, make_context(tmp_path))
