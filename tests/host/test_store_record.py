"""A home remembers which store it served: a start tells a store that is not there from one that is new."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from artstore.element import decode, encode
from artstore.errors import ConfigError
from artstore.host import boot, store_record
from artstore.host.boot import Node
from artstore.host.offline import open_backend, open_survey
from artstore.host.settings import Configuration, Settings
from artstore.modes import Mode
from artstore.spi import TOKEN_ROLES, Principal

BY = Principal(id="u-1", name="ivanov", scopes=TOKEN_ROLES["admin"])
ID = {"element_id": "se-01"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def configured(home: Path, **settings: object) -> Configuration:
    return Configuration(home=home, file=None, settings=Settings.model_validate(settings))


def open_node(home: Path, *, new_store: bool = False, **settings: object) -> Node:
    return boot.open_node(configured(home, **settings), new_store=new_store)


def serve_once(home: Path, **settings: object) -> None:
    """Let a home serve a store with one file."""
    with closing(open_node(home, **settings)) as node:
        session = node.kernel.begin(BY, filename="a.txt")
        session.write(b"data")
        session.commit()


def record_of(home: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads((home / "files/.artstore/element.json").read_bytes())
    return record


def unmount(home: Path) -> None:
    (home / "files").rename(home / "away")
    (home / "files").mkdir()


def remove_root(home: Path) -> None:
    (home / "files").rename(home / "away")


def lose_the_record(home: Path) -> None:
    shutil.copytree(home / "files", home / "away")
    (home / "files/.artstore/element.json").unlink()


def lose_the_internal_directory(home: Path) -> None:
    shutil.copytree(home / "files", home / "away")
    shutil.rmtree(home / "files/.artstore")


def mount_another(home: Path) -> None:
    other = home.parent / "other"
    serve_once(other)
    (home / "files").rename(home / "away")
    (other / "files").rename(home / "files")


def mount_one_of_the_same_id(home: Path) -> None:
    other = home.parent / "other"
    serve_once(other, element_id=record_of(home)["element_id"])
    (home / "files").rename(home / "away")
    (other / "files").rename(home / "files")


LOST = [
    unmount, remove_root, lose_the_record, lose_the_internal_directory, mount_another, mount_one_of_the_same_id,
]  # fmt: skip


def put_back(home: Path) -> None:
    shutil.rmtree(home / "files", ignore_errors=True)
    (home / "away").rename(home / "files")


@pytest.mark.parametrize(
    ("lose", "settings"), [*((lose, {"mode": "rw"}) for lose in LOST), (unmount, ID | {"mode": "rw"})]
)
def test_a_store_that_is_not_there_is_78_and_nothing_is_made_in_its_place(
    home: Path, lose: Callable[[Path], None], settings: dict[str, str]
) -> None:
    serve_once(home, **settings)
    with closing(open_node(home, **settings)) as node:
        node.kernel.transition(BY, Mode.RO, confirm=True, reason="test")
        before = node.kernel.parts.element.record()
    lose(home)
    there = sorted(home.glob("files/**/*"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="is not the store that this home has served") as refused:
            open_node(home, **settings)
        assert "--new-store" in refused.value.cure
        assert "backend" in refused.value.place
    if lose in (unmount, remove_root, lose_the_internal_directory):
        assert str(home / "files") in refused.value.detail
        assert sorted(home.glob("files/**/*")) == there
    assert (home / "files").exists() == (lose is not remove_root)
    put_back(home)
    with closing(open_node(home, **settings)) as node:
        assert node.kernel.parts.element.record() == before
        assert node.kernel.index.totals().files == 1


@pytest.mark.parametrize("lose", LOST)
def test_commands_refuse_a_store_that_is_not_there(home: Path, lose: Callable[[Path], None]) -> None:
    serve_once(home)
    lose(home)
    with pytest.raises(ConfigError, match="is not the store"):
        open_backend(configured(home))
    survey = open_survey(configured(home), since=None, digests=False, on_progress=lambda _: None)
    with pytest.raises(ConfigError, match="is not the store"), survey:
        pass


@pytest.mark.parametrize("lose", [unmount, remove_root, mount_one_of_the_same_id])
def test_a_new_store_is_served_when_the_operator_asks(home: Path, lose: Callable[[Path], None]) -> None:
    serve_once(home, **ID)
    old = record_of(home)
    lose(home)
    files = len([*home.glob("files/2*/**/*.attr.json")])
    open_node(home, new_store=True).close()
    with closing(open_node(home)) as node:
        record = node.kernel.parts.element.record()
        assert node.kernel.index.totals().files == files
    assert (record.element_id, record.store_id != old["store_id"]) == ("se-01", True)
    with pytest.raises(ConfigError, match="is there") as refused:  # the option must not stay on
        open_node(home, new_store=True)
    assert refused.value.place == "--new-store"


@pytest.mark.parametrize("lose", [lose_the_record, lose_the_internal_directory])
def test_files_without_their_element_get_no_new_one_unless_its_id_is_set(
    home: Path, lose: Callable[[Path], None]
) -> None:
    serve_once(home, **ID)
    lose(home)
    with pytest.raises(ConfigError, match="holds files, but"):
        open_node(home, new_store=True)
    with closing(open_node(home, new_store=True, **ID)) as node:
        assert node.kernel.index.totals().files == 1


def test_a_home_without_a_record_adopts_its_store(home: Path) -> None:
    """An upgrade, a removed `state/`, a restored copy, a crash of the first start before the record was written."""
    serve_once(home)
    before = record_of(home)
    shutil.rmtree(home / "state")
    with closing(open_node(home)) as node:
        assert node.kernel.index.totals().files == 1
    assert record_of(home) == before
    record = store_record.read(home / "state")
    assert record is not None
    assert (record.store_id, record.element_id) == (before["store_id"], before["element_id"])


def test_a_backup_of_the_store_is_the_store(home: Path) -> None:
    serve_once(home)
    shutil.copytree(home / "files", home / "copy")
    shutil.rmtree(home / "files")
    (home / "copy").rename(home / "files")
    with closing(open_node(home)) as node:
        assert node.kernel.index.totals().files == 1


def test_a_store_without_an_id_gets_one(home: Path) -> None:
    """It was made by a version that made none."""
    serve_once(home)
    shutil.rmtree(home / "state")
    path = home / "files/.artstore/element.json"
    old = decode(path.read_bytes()).model_copy(update={"store_id": "", "mode": Mode.RO})
    path.write_bytes(encode(old))
    open_node(home).close()
    store_id = record_of(home)["store_id"]
    assert store_id
    assert decode(path.read_bytes()) == old.model_copy(update={"store_id": store_id})
    unmount(home)
    with pytest.raises(ConfigError, match="is not the store"):
        open_node(home)


def test_a_torn_record_stops_no_element_and_begins_no_new_one(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    serve_once(home)
    record = home / "state/store.json"
    whole = record.read_bytes()
    for torn in (b"", whole[:10], b"\0" * len(whole)):
        record.write_bytes(torn)
        with caplog.at_level(logging.WARNING):
            open_node(home).close()
        assert "store.json cannot be read" in caplog.text
        assert record.read_bytes() == whole
        record.write_bytes(torn)
        unmount(home)
        with pytest.raises(ConfigError, match="is not the store"):
            open_node(home)
        put_back(home)
