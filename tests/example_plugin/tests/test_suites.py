"""The suites of artstore, held to the two providers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from artstore_boxes.auth import KeysAuth
from artstore_boxes.backend import BoxesBackend

from artstore.spi import Auth, Backend
from artstore.testing import AuthSuite, BackendSuite, make_context


class TestBoxes(BackendSuite):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Callable[[], Backend]]:
        backends: list[Backend] = []

        def open_it() -> Backend:
            for backend in backends:
                backend.close()
            backends.append(BoxesBackend(BoxesBackend.Settings(), make_context(tmp_path)))
            return backends[-1]

        yield open_it
        backends[-1].close()

    @pytest.fixture
    def backend(self, opened: Callable[[], Backend]) -> Backend:
        return opened()

    @pytest.fixture
    def reopen(self, opened: Callable[[], Backend]) -> Callable[[], Backend]:
        return opened


class TestKeys(AuthSuite):
    @pytest.fixture
    def auth(self, tmp_path: Path) -> Auth:
        return KeysAuth(KeysAuth.Settings(), make_context(tmp_path))
