"""How the backend suite opens a store, and how a stranger lays something into it, past the backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import pytest

from artstore.attr import SIDECAR_SUFFIX
from artstore.spi import Backend
from artstore_s3.settings import S3Settings
from support import s3


class Closes(Protocol):
    def close(self) -> None: ...


P = ParamSpec("P")
C = TypeVar("C", bound=Closes)
Lay = Callable[[str, bytes], None]
Plant = Callable[[str, bytes | None, bytes | None], None]


@contextmanager
def opening(make: Callable[P, C]) -> Iterator[Callable[P, C]]:
    """`make`; what it made is closed in the end."""
    with ExitStack() as made:
        yield lambda *args, **named: made.enter_context(closing(make(*args, **named)))


class Store:
    """The fixtures of `BackendSuite`, out of two."""

    closes = False
    """Whether `backend` has to be closed before its store is opened again as that of a dead process."""

    @pytest.fixture
    def make(self) -> Callable[[], Backend]:
        """Opens the store."""
        raise NotImplementedError

    @pytest.fixture
    def lay(self) -> Lay:
        """Puts something under a name of the store."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, make: Callable[[], Backend]) -> Iterator[Callable[[], Backend]]:
        with opening(make) as open_it:
            yield open_it

    @pytest.fixture
    def backend(self, opened: Callable[[], Backend]) -> Backend:
        return opened()

    @pytest.fixture
    def plant(self, lay: Lay) -> Plant:
        def plant(key: str, data: bytes | None, sidecar: bytes | None) -> None:
            for name, content in ((key, data), (key + SIDECAR_SUFFIX, sidecar)):
                if content is not None:
                    lay(name, content)

        return plant

    @pytest.fixture
    def reopen(self, backend: Backend, opened: Callable[[], Backend]) -> Callable[[], Backend]:
        def reopen() -> Backend:
            if self.closes:
                backend.close()
            return opened()

        return reopen

    @pytest.fixture
    def open_second(self, opened: Callable[[], Backend]) -> Callable[[], Backend]:
        return opened


class InFiles(Store):
    """Below a directory of this machine."""

    below = "files"

    @pytest.fixture
    def lay(self, tmp_path: Path) -> Lay:
        def lay(name: str, content: bytes) -> None:
            path = tmp_path / self.below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        return lay


class InS3(Store):
    """In a bucket of a real server."""

    @pytest.fixture
    def bucket(self, s3_server: s3.Seaweed) -> str:
        return s3_server.bucket()

    @pytest.fixture
    def settings(self, s3_server: s3.Seaweed, bucket: str) -> S3Settings:
        return S3Settings.model_validate(s3.settings(s3_server, bucket, prefix="se-01"))

    @pytest.fixture
    def lay(self, s3_server: s3.Seaweed, bucket: str) -> Lay:
        client = s3_server.client
        return lambda name, content: client.put_object(Bucket=bucket, Key=f"se-01/{name}", Body=content)
