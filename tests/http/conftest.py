"""The elements that the tests ask: each is started once, stopped by SIGTERM, and its log may hold no fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import s3, servers
from support.servers import Element

ADAPTERS = ("starlette", "falcon")


@pytest.fixture(scope="session", params=[*ADAPTERS, *(f"{adapter}-s3" for adapter in ADAPTERS)])
def element(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Element]:
    """An element in mode `edit`, two workers, shared by most tests: leave the files of other tests alone."""
    settings = {"AUTH__JWT__ISSUER": servers.ISSUER, "AUTH__JWT__AUDIENCE": servers.AUDIENCE}
    home = tmp_path_factory.mktemp(request.param) / "home"
    adapter, _, remote = request.param.partition("-")
    if remote:
        server = request.getfixturevalue("s3_server")
        bucket = server.bucket()
        settings |= s3.environment(s3.settings(server, bucket))
        settings |= {"CACHE__SQL__URL": request.getfixturevalue("postgres").url()}
        settings |= {"CACHE__SQL__TABLE_PREFIX": f"{bucket.replace('-', '_')}_"}
    made = servers.start(adapter, home, workers=2, settings=settings)
    if remote:
        made = s3.on_s3(made, server, bucket)
    try:
        yield made
        made.wait_idle()
        run = servers.artstore(made.home, "wal", "--json", "--status", "pending", settings=settings)
        assert json.loads(run.stdout) == []
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
    started: list[Element] = []

    def start(adapter: str, **options: Any) -> Element:
        home = options.pop("home", None) or tmp_path_factory.mktemp(adapter) / "home"
        started.append(servers.start(adapter, home, **options))
        return started[-1]

    yield start
    for element in started:
        element.stop()
