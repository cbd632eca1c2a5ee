"""Real servers, started once a run; and what a run tells at its end: how much the crash floor tried."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from support.postgres import Postgres

TRIED = "tried"
# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("unhurried", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `slow` go first, so that at the end no process of the run waits for another.

    xdist gives each process one stretch of the list to begin with: each stretch begins with its share of those.
    """

    def rank(item: pytest.Item) -> int:
        return 0 if item.get_closest_marker("slow") else 1 if item.path.parent.name == "crash" else 2

    ordered = sorted(items, key=rank)
    count = sum(rank(item) < 2 for item in ordered)
    first, rest = ordered[:count], iter(ordered[count:])
    processes, left = getattr(config, "workerinput", {"workercount": 1})["workercount"], len(items)
    items.clear()
    for number in range(processes):
        stretch = left // (processes - number)
        share = first[number::processes]
        items += [*share, *itertools.islice(rest, max(0, stretch - len(share)))]
        left -= stretch
    items += rest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: no search for garbage has to go through them, now or later."""
    gc.freeze()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server, one for each process of the run."""
    from support.s3 import read_descriptions_once, seaweed

    read_descriptions_once()
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp_server() -> Iterator[Any]:
    """An SFTP server, one for each process of the run."""
    from support.sftp import sftp

    with sftp() as server:
        yield server


@pytest.fixture
def tried(record_property: Any) -> Any:
    """A function that puts a line under "what was tried" at the end of the run, also from a worker of xdist."""
    return lambda line: record_property(TRIED, line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {line}"
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, line in report.user_properties
        if name == TRIED
    ]
    if lines:
        terminalreporter.section("what was tried")
        for line in sorted(lines):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for one worker of the run: keep to tables with a prefix of your own, and leave it running."""
    from support.postgres import Postgres

    server = Postgres()
    yield server
    server.close()
