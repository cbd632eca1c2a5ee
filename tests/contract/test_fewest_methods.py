"""A provider with the fewest methods passes its suite, and one that subclasses no Protocol is used like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artstore.attr import Attr
from artstore.errors import Unauthorized
from artstore.host.guard import wrap
from artstore.ids import FileId, Key
from artstore.spi import API, Auth, Backend, Change, Context, NoSettings, Observer, Principal
from artstore.testing import AuthSuite, BackendSuite, MemoryBackend, ObserverSuite, make_context
from artstore.testing.observer import Noted


class OneToken(Auth):
    API = API
    Settings = NoSettings

    def __init__(self, settings: NoSettings, context: Context) -> None:
        return

    def authenticate(self, token: str) -> Principal:
        if token != "a long enough secret":
            raise Unauthorized("This token is not known.")
        return Principal(id="42", name="ivanov")


class TestOneToken(AuthSuite):
    # This auth makes no tokens: nothing of ours skips, so what asks for one is left out by name.
    test_a_token_role_gives_its_scopes = None
    test_token_roles_add_up = None
    test_an_unknown_token_role_gives_no_scope = None
    test_any_user_name_is_returned = None
    test_a_user_that_could_forge_a_log_gets_no_token = None

    @pytest.fixture
    def auth(self, tmp_path: Path) -> Auth:
        return OneToken(NoSettings(), make_context(tmp_path))

    @pytest.fixture
    def token(self) -> str:
        return "a long enough secret"


class Recorder(Observer):
    API = API
    Settings = NoSettings

    def __init__(self, settings: NoSettings, context: Context) -> None:
        self.noted: list[tuple[Change, FileId]] = []

    def committed(self, change: Change, file_id: FileId, key: Key, attr: Attr | None) -> None:
        self.noted.append((change, file_id))

    def flush(self) -> None:
        return


class TestRecorder(ObserverSuite):
    @pytest.fixture
    def observer(self, tmp_path: Path) -> Recorder:
        return Recorder(NoSettings(), make_context(tmp_path))

    @pytest.fixture
    def noted(self, observer: Recorder) -> Noted:
        return lambda: observer.noted


class LooksLikeABackend:
    """Has the methods of `MemoryBackend` without being a `Backend`."""

    def __init__(self) -> None:
        self._backend = MemoryBackend()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class TestLooksLikeABackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> Backend:
        guarded: Backend = wrap(LooksLikeABackend(), "backend", "acme:tape")
        return guarded
