"""The elements that the suite talks to: each is started once, stopped by SIGTERM, and judged by its log."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import s3, servers
from support.servers import Element

ADAPTERS = ("starlette", "falcon")


@pytest.fixture(scope="session", params=[*ADAPTERS, *(f"{adapter}-s3" for adapter in ADAPTERS)])
def element(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Element]:
    """An element in mode `edit`, two workers, shared by most tests: leave others' files alone."""
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
        command = [servers.ARTSTORE, "wal", "--home", str(made.home), "--json", "--status", "pending"]
        given = {n: v for n, v in os.environ.items() if not n.startswith("ARTSTORE_")}
        given |= {f"ARTSTORE_{name}": value for name, value in settings.items()}
        assert json.loads(subprocess.run(command, check=True, capture_output=True, env=given).stdout) == []
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
