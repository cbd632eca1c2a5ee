"""The store is moved, unmounted or hidden, at a start or while it is served: no 201, no list without its files."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.servers import Element, file_path, until

UNKNOWN = file_path(str(uuid.UUID(int=9)))


def move_away(files: Path) -> None:
    files.rename(files.with_name("away"))


def put_an_empty_directory(files: Path) -> None:
    move_away(files)
    files.mkdir()


def put_another_store(files: Path) -> None:
    put_a_copy(files)
    record = files / ".artstore/element.json"
    record.write_text(record.read_text().replace('"store_id": "', '"store_id": "0'))


def put_a_copy(files: Path) -> None:
    """What is written into the directory that is open would be missing in the copy."""
    move_away(files)
    shutil.copytree(files.with_name("away"), files)


@pytest.mark.parametrize("lose", [move_away, put_an_empty_directory, put_another_store, put_a_copy])
def test_a_store_that_is_replaced_while_it_is_served_is_503_until_it_is_back(
    adapter: str, start: Callable[..., Element], tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    with servers.serving(adapter, tmp_path / "home") as element:
        kept = check_a_replaced_store(element, lose)
    assert start(adapter, home=element.home).files().keys() == kept


def check_a_replaced_store(element: Element, lose: Callable[[Path], None]) -> set[str]:
    """Return the ids of the files that were acknowledged."""
    kept = [element.upload(b"data %d" % n) for n in range(3)]
    one = kept[0]["file_id"]
    files = element.home / "files"
    lose(files)
    try:
        before = set(files.rglob("*"))
        for answer in (
            element.post(b"lost"),
            element.put(str(uuid.uuid4()), b"lost"),
            element.get("/api/v1/files"),
            element.get("/api/v1/files?q=a"),
            element.get(UNKNOWN),
            element.get(f"{UNKNOWN}/download"),
            element.download(one),
            element.patch(one, {"description": "lost"}),
            element.ask("DELETE", file_path(one)),
            element.get("/api/v1/capacity"),
            element.mode("rw"),
        ):
            problem = answer.problem(503)
            assert str(element.home) not in problem["detail"]
        assert element.get("/health/ready", bearer=None).status == 503
        assert element.get("/health/live", bearer=None).status == 200
        assert set(files.rglob("*")) == before
    finally:
        shutil.rmtree(files, ignore_errors=True)
        files.with_name("away").rename(files)
    until(lambda: element.get("/health/ready", bearer=None).status == 200, "it is ready again")
    assert element.files().keys() == {attr["file_id"] for attr in kept}
    kept.append(element.upload(b"after"))
    return {attr["file_id"] for attr in kept}


SETTINGS = {"ELEMENT_ID": "se-01", "MODE": "rw"}


def test_an_unmounted_store_ends_a_start_with_78_and_the_cure(
    adapter: str, start: Callable[..., Element]
) -> None:
    element = start(adapter, settings=SETTINGS)
    kept = element.upload(b"data")
    element.stop()
    home, files = element.home, element.home / "files"
    put_an_empty_directory(files)
    for command in (["serve", "--adapter", adapter, "--port", str(element.port)], ["verify"]):
        run = servers.artstore(home, *command, settings=SETTINGS)
        assert run.returncode == 78, (command, run)
        assert str(files) in run.stderr
        assert "artstore serve --new-store" in run.stderr
    assert [*files.iterdir()] == []
    files.rmdir()
    files.with_name("away").rename(files)
    assert start(adapter, home=home, settings=SETTINGS).files().keys() == {kept["file_id"]}


def test_a_new_store_is_begun_on_purpose_and_once(adapter: str, start: Callable[..., Element]) -> None:
    element = start(adapter, settings=SETTINGS)
    element.upload(b"data")
    element.stop()
    put_an_empty_directory(element.home / "files")
    serve = ["serve", "--adapter", adapter, "--new-store", "--port"]
    new = start(adapter, home=element.home, settings=SETTINGS, command=[servers.ARTSTORE, *serve, "PORT"])
    new.exits = (0,)
    info: Any = new.get("/api/v1/info").json()
    assert (info["element_id"], info["mode"]) == ("se-01", "rw")
    assert new.files() == {}
    other = new.upload(b"other")
    new.stop()
    run = servers.artstore(element.home, *serve, str(element.port), settings=SETTINGS)
    assert (run.returncode, "Leave the option out" in run.stderr) == (78, True)
    again = start(adapter, home=element.home, settings=SETTINGS)
    assert again.files().keys() == {other["file_id"]}
