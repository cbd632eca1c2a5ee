"""The elements that the suite talks to: each is started once, stopped by SIGTERM, and judged by its log."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import servers
from servers import Element

ADAPTERS = ("starlette", "falcon")


@pytest.fixture(scope="session", params=ADAPTERS)
def element(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Element]:
    """An element in mode `edit`, two workers, shared by most tests: leave others' files alone."""
    settings = {"AUTH__JWT__ISSUER": servers.ISSUER, "AUTH__JWT__AUDIENCE": servers.AUDIENCE}
    home = tmp_path_factory.mktemp(request.param) / "home"
    made = servers.start(request.param, home, workers=2, settings=settings)
    try:
        yield made
        made.settled()
        command = [servers.ARTSTORE, "wal", "--home", str(made.home), "--json", "--status", "pending"]
        assert json.loads(subprocess.run(command, check=True, capture_output=True).stdout) == []
    finally:
        made.stop()


@pytest.fixture(scope="session", params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    """For tests that start an element of their own."""
    name: str = request.param
    return name


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Element]]:
    """Starts elements that end with the test: `start(adapter, workers=1, settings={...}, command=[...])`."""
    begun: list[Element] = []

    def begin(adapter: str, **options: Any) -> Element:
        home = options.pop("home", None) or tmp_path_factory.mktemp(adapter) / "home"
        begun.append(servers.start(adapter, home, **options))
        return begun[-1]

    yield begin
    for element in begun:
        element.stop()
