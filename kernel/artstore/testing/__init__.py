"""For authors of providers: suites that hold a provider to its contract, and providers in memory.

    from artstore.testing import BackendSuite, make_context

    class TestMine(BackendSuite):
        @pytest.fixture
        def backend(self, tmp_path):
            return MyBackend(MyBackend.Settings(), make_context(tmp_path))

The suites need pytest; `NamingSuite` and `AuthSuite` need hypothesis as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from artstore.testing.attrs import make_attr, make_context
    from artstore.testing.auth import AuthSuite
    from artstore.testing.backend import BackendSuite
    from artstore.testing.cache import CacheSuite
    from artstore.testing.log import LogSuite, SharedLogSuite
    from artstore.testing.memory_auth import StaticAuth
    from artstore.testing.memory_backend import MemoryBackend
    from artstore.testing.memory_cache import MemoryCache
    from artstore.testing.naming import NamingSuite
    from artstore.testing.observer import ObserverSuite

__all__ = [
    "AuthSuite",
    "BackendSuite",
    "CacheSuite",
    "LogSuite",
    "MemoryBackend",
    "MemoryCache",
    "NamingSuite",
    "ObserverSuite",
    "SharedLogSuite",
    "StaticAuth",
    "make_attr",
    "make_context",
]

_PLACES = {
    "AuthSuite": "auth",
    "BackendSuite": "backend",
    "CacheSuite": "cache",
    "LogSuite": "log",
    "MemoryBackend": "memory_backend",
    "MemoryCache": "memory_cache",
    "NamingSuite": "naming",
    "ObserverSuite": "observer",
    "SharedLogSuite": "log",
    "StaticAuth": "memory_auth",
    "make_attr": "attrs",
    "make_context": "attrs",
}

_SUITES = (
    *("auth", "backend", "backend_changes", "backend_durability", "backend_recovery", "backend_store"),
    *("cache", "cache_search", "log", "naming", "observer"),
)

# A failed `assert` of a suite then shows what it compared, in a foreign project too.
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))


def __getattr__(name: str) -> Any:
    # On demand: a test of a backend does not need what the suite for namings imports.
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
