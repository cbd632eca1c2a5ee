"""An element whose PostgreSQL goes away, falls silent and comes back; and what its commands say of mistakes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artstore_sql import migration
from support import servers
from support.ports import free_port
from support.postgres import Postgres
from support.servers import Element, file_path, until


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server for this module alone, which stops and pauses it."""
    server = Postgres()
    yield server
    server.close()


def test_an_element_outlives_its_database(tmp_path: Path, own: Postgres) -> None:
    settings = {"CACHE__SQL__URL": own.url(), "CACHE__SQL__TABLE_PREFIX": "out_", "CACHE__SQL__TIMEOUT": "1"}
    with servers.serving("starlette", tmp_path / "home", settings=settings) as element:
        made = {attr["file_id"]: attr for attr in (element.upload(b"%d" % n) for n in range(3))}
        for off, on in ((own.stop, own.start), (own.pause, own.resume), (own.crash, own.start)):
            off()
            try:
                more = check_outage(element, made)
            finally:
                on()
            made[more["file_id"]] = more
            until(lambda: listed(element) == set(made), "the index is complete", deadline=60)
            assert until(lambda: element.get("/health/ready").status == 200, "readiness")
        until(lambda: not element.pending(), "every intent to end")
    assert "Traceback" not in element.log.read_text()
    assert "hunter2" not in element.log.read_text()


def check_outage(element: Element, made: dict[str, dict[str, object]]) -> dict[str, object]:
    """Check that searches are refused in time, and requests by id are answered; return a file uploaded meanwhile."""
    refused = element.get("/api/v1/files")
    refused.problem(503)
    assert refused.header("retry-after")
    for file_id, attr in made.items():
        assert element.get(file_path(file_id)).json() == attr
        assert element.download(file_id).status == 200
    more = element.upload(b"meanwhile")
    assert element.download(more["file_id"]).body == b"meanwhile"
    assert "cache" in element.get("/health/ready").json()["checks"]
    return more


def listed(element: Element) -> set[str] | None:
    answer = element.get("/api/v1/files?limit=1000")
    if answer.status != 200:
        answer.problem(503)
        return None
    return {attr["file_id"] for attr in answer.json()["items"]}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def artstore(tmp_path: Path, own: Postgres) -> Command:
    (tmp_path / "home").mkdir()

    def run(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        given = {"CACHE__SQL__URL": own.url(), "CACHE__SQL__TABLE_PREFIX": "cli_"} | settings
        if "CACHE__SQL__URL_FILE" in settings:
            del given["CACHE__SQL__URL"]
        home = Path(given.pop("HOME", str(tmp_path / "home")))
        return servers.artstore(home, *args, settings=given)

    return run


def test_the_schema_is_shown_upgraded_and_downgraded(artstore: Command) -> None:
    def revision(*args: str) -> str | None:
        run = artstore("db", *args, "--json")
        assert run.returncode == 0, run.stderr
        found: str | None = json.loads(run.stdout)["revision"]
        return found

    assert revision("current") is None
    assert revision("upgrade") == migration.HEAD
    assert revision("downgrade") is None
    wrong = artstore("db", "upgrade", "r9")
    assert (wrong.returncode, "r9" in wrong.stderr) == (78, True)


def test_wrong_settings_are_named_with_their_cure(artstore: Command, own: Postgres, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(own.url().replace("hunter2", "hunter3"))
    wrong = artstore("recover", CACHE__SQL__URL_FILE=str(secret))
    assert wrong.returncode == 78, wrong.stderr
    assert "refuses the password" in wrong.stderr
    log = {"WAL": "sql", "WAL__SQL__URL": own.url(port=free_port())}
    silent = artstore("recover", **log)
    assert silent.returncode == 7, silent.stderr
    prefix = artstore("config", "check", CACHE__SQL__TABLE_PREFIX='x"y')
    assert prefix.returncode == 78
    assert "ARTSTORE_CACHE__SQL__TABLE_PREFIX" in prefix.stderr
    for run in (wrong, silent, prefix, artstore("config", "show", **log)):
        assert "hunter" not in run.stdout + run.stderr


def test_the_tables_of_another_element_are_refused(artstore: Command, own: Postgres, tmp_path: Path) -> None:
    first = artstore("recover", CACHE__SQL__TABLE_PREFIX="both_", ELEMENT_ID="se-01")
    assert first.returncode == 0, first.stderr
    again = artstore("recover", CACHE__SQL__TABLE_PREFIX="both_", ELEMENT_ID="se-01")
    assert again.returncode == 0, again.stderr
    (tmp_path / "second").mkdir()
    given = {"HOME": str(tmp_path / "second"), "CACHE__SQL__TABLE_PREFIX": "both_", "ELEMENT_ID": "se-02"}
    second = artstore("recover", **given)
    assert second.returncode == 78, second.stderr
    assert "The tables 'both_...' belong to element 'se-01', not to 'se-02'." in second.stderr
    assert "table_prefix" in second.stderr
    log = given | {"CACHE__SQL__TABLE_PREFIX": "both_2_", "WAL": "sql", "WAL__SQL__TABLE_PREFIX": "both_"}
    assert artstore("recover", **log, WAL__SQL__URL=own.url()).returncode == 78
    # Nothing was taken away from the first; and under another prefix both are well.
    third = artstore("recover", "--json", CACHE__SQL__TABLE_PREFIX="both_", ELEMENT_ID="se-01")
    assert json.loads(third.stdout)["rebuilt"] is False
    other = artstore("recover", **given | {"CACHE__SQL__TABLE_PREFIX": "both_2_"})
    assert other.returncode == 0, other.stderr
