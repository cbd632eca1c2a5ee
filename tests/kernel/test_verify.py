"""What `artstore verify` finds, and what `artstore rebuild` makes of it, over a real store."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artstore.attr import SIDECAR_SUFFIX, Attr
from artstore.errors import ArtstoreError, Conflict, Damaged, NotFound, Unavailable
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.ids import FileId, Key
from artstore.maintenance.jobs import Job
from artstore.maintenance.repair import rebuild, reconcile
from artstore.maintenance.verify import HEALTHY, Kind, Survey
from artstore.spi import Entry, Query, Span
from artstore.testing import MemoryBackend, make_context
from artstore.testing.memory_backend import Kept
from artstore_cli import main as cli
from artstore_local.backend import LocalBackend
from artstore_naming.dated import DatedNaming
from artstore_wal.log import FileLog
from support.uploads import BY, upload

LONG = 20
"""Times as many examples in a long run."""
KEYS: dict[str, bytes] = {}


@dataclass
class House:
    """An element that is opened and closed on one home."""

    home: Path
    node: Node | None = None

    @property
    def files(self) -> Path:
        return self.home / "files"

    def open(self) -> Node:
        keys = self.home / "state" / "keys"
        if KEYS and not keys.exists():  # making a pair takes longer than all the rest
            keys.mkdir(mode=0o700, parents=True)
            for name, content in KEYS.items():
                (keys / name).write_bytes(content)
                (keys / name).chmod(0o600)
        self.node = open_node(load(home=self.home))
        KEYS.update((p.name, p.read_bytes()) for p in keys.iterdir() if p.is_file())
        return self.node

    def close(self) -> None:
        if self.node is not None:
            self.node.close()
            self.node = None

    def upload(self, content: bytes = b"content", **texts: Any) -> Attr:
        node = self.node or self.open()
        return upload(node.kernel, content, texts.pop("filename", "report.txt"), **texts)

    def job(self, task: str, **options: Any) -> Any:
        node = self.node or self.open()

        def work(job: Job) -> None:
            if task == "rebuild":
                rebuild(node.kernel.parts, node.kernel.index, job, node.jobs)
            else:
                reconcile(
                    node.kernel.parts,
                    node.kernel.index,
                    job,
                    repair=task == "repair",
                    digests=options.get("digests", False),
                )

        return node.jobs.run(task, by="test", digests=False, work=work)  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr("artstore.maintenance.verify.PAUSE", 0.05)
    made = House(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def verify(house: House, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def verify(*options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = cli.main(["--home", str(house.home), "verify", "--json", *options])
        out, err = capsys.readouterr()
        assert err == ""  # no bar where nobody looks
        return code, json.loads(out)

    return verify


Verify = Callable[..., tuple[int, dict[str, Any]]]


def found(report: dict[str, Any]) -> dict[str, str]:
    """key -> kind"""
    return {f["key"]: f["kind"] for f in report["findings"]}


def path(house: House, attr: Attr, suffix: str = "") -> Path:
    return house.files / (attr.key + suffix)


def contents(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that lies below `root`, with times and bytes."""
    seen = {}
    for one in sorted(root.rglob("*")):
        if one.name.endswith("-shm"):  # where readers of SQLite meet
            continue
        status = one.lstat()
        plain = one.is_file() and not one.is_symlink()
        seen[str(one)] = (status.st_ino, status.st_mtime_ns, one.read_bytes() if plain else b"")
    return seen


def answers(node: Node) -> list[Any]:
    """What every search answers, in every order and under every filter that tells files apart."""
    told: list[Any] = []
    for sort in ("uploaded_at", "original_filename", "size"):
        for descending in (True, False):
            told.append([a.model_dump() for a in every(node, sort=sort, descending=descending, limit=7)])
    for attr in every(node):
        for query in (
            {"filename": attr.original_filename}, {"uploaded_by": attr.uploaded_by}, {"sha256": attr.sha256},
            {"content_type": attr.content_type}, {"tags": attr.tags}, {"min_size": attr.size},
            {"max_size": attr.size}, {"uploaded_after": attr.uploaded_at}, {"uploaded_before": attr.uploaded_at},
            {"words": tuple(attr.description.split())[:5]},
        ):  # fmt: skip
            told.append([a.file_id for a in every(node, **query)])
    return [*told, node.kernel.parts.cache.totals()]


def every(node: Node, **query: Any) -> list[Attr]:
    items: list[Attr] = []
    page = node.kernel.search(Query(**query))
    items += page.items
    while page.next is not None:
        page = node.kernel.search(Query(**query, after=page.next))
        items += page.items
    return items


# --- verify ---


def test_a_sound_store(house: House, verify: Verify) -> None:
    for n in range(3):
        house.upload(bytes(n))
    for serving in (True, False):
        if not serving:
            house.close()
        before = contents(house.home)
        code, report = verify("--digests")
        assert (code, report["sound"], report["cache"], report["findings"]) == (0, True, "compared", [])
        assert report["counts"] == {kind.value: 3 if kind is Kind.OK else 0 for kind in Kind}
        assert report["bytes"] == 3
        assert contents(house.home) == before


def swap(house: House, one: Attr, other: Attr, suffix: str) -> None:
    a, b = path(house, one, suffix), path(house, other, suffix)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def edit(house: House, attr: Attr, **changes: Any) -> None:
    sidecar = path(house, attr, SIDECAR_SUFFIX)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))


def replace(place: Path, what: str) -> None:
    """Something that is no plain file, where one was."""
    outside = place.parents[5] / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_bytes(b"content")
    place.unlink()
    if what == "directory":
        place.mkdir()
    elif what == "fifo":
        os.mkfifo(place)
    elif what == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o600)
    else:
        place.symlink_to(outside / ("secret" if what == "link" else "nowhere"))


TAMPERING: dict[str, Callable[[House, Attr, Attr], object]] = {
    "sidecar empty": lambda h, a, b: path(h, a, SIDECAR_SUFFIX).write_bytes(b""),
    "sidecar cut": lambda h, a, b: os.truncate(path(h, a, SIDECAR_SUFFIX), 100),
    "sidecar no JSON": lambda h, a, b: path(h, a, SIDECAR_SUFFIX).write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe"),
    "sidecar no object": lambda h, a, b: path(h, a, SIDECAR_SUFFIX).write_bytes(b"[1]"),
    "sidecar deep": lambda h, a, b: path(h, a, SIDECAR_SUFFIX).write_bytes(b"[" * 4096),
    "sidecar huge": lambda h, a, b: path(h, a, SIDECAR_SUFFIX).write_bytes(b" " * (64 << 20)),
    "sidecar lacks a field": lambda h, a, b: edit(h, a, sha256=None),
    "sidecar of tomorrow": lambda h, a, b: edit(h, a, schema_version=2),
    "sidecar with a number too large": lambda h, a, b: edit(h, a, size=2**60),
    "sidecar with a revision too large": lambda h, a, b: edit(h, a, revision=2**60),
    "sidecar that leads outside": lambda h, a, b: edit(h, a, storage_path="../../../etc"),
    "sidecar of another name": lambda h, a, b: edit(h, a, storage_filename="x" + a.storage_filename),
    "sidecar of a wrong id": lambda h, a, b: edit(h, a, file_id=a.file_id[:-8] + "00000000"),
    "sidecar of another size": lambda h, a, b: edit(h, a, size=a.size + 1),
    "data cut": lambda h, a, b: os.truncate(path(h, a), 3),
    "data empty": lambda h, a, b: os.truncate(path(h, a), 0),
    "data longer": lambda h, a, b: os.truncate(path(h, a), 1 << 20),
    "data huge": lambda h, a, b: os.truncate(path(h, a), 1 << 40),
    **{
        f"{half} a {what}": lambda h, a, b, s=suffix, w=what: replace(path(h, a, s), w)  # type: ignore[misc]
        for half, suffix in (("data", ""), ("sidecar", SIDECAR_SUFFIX))
        for what in ("directory", "fifo", "socket", "link", "dangling link")
    },
}  # fmt: skip


def test_what_was_tampered_with_is_damaged(house: House, verify: Verify) -> None:
    """Seen while the element serves and while it does not; never served, never in its way."""
    whole = house.upload(b"whole")
    attrs = {how: house.upload(b"content") for how in TAMPERING}
    for how, attr in attrs.items():
        TAMPERING[how](house, attr, whole)
    damaged = {attr.key: "damaged" for attr in attrs.values()}
    for serving in (True, False):
        if not serving:
            house.close()
        code, report = verify("--digests")
        assert (code, report["sound"], report["counts"]["ok"]) == (6, False, 1)
        assert found(report) == damaged
    node = house.open()
    for attr in attrs.values():
        with pytest.raises((Damaged, NotFound)):
            node.kernel.download(attr.file_id)
    assert node.kernel.download(whole.file_id).attr == whole
    assert house.job("rebuild").status == "done"
    assert house.job("check").found == {"ok": 1, "damaged": len(attrs)}
    assert {f.done for f in house.job("repair").findings} == {"quarantined"}
    assert verify()[0] == 0
    for attr in attrs.values():
        with pytest.raises(NotFound):
            node.kernel.attr(attr.file_id)
    aside = house.files / ".artstore" / "quarantine" / whole.storage_path
    halves = {attr.storage_filename + suffix for attr in attrs.values() for suffix in ("", SIDECAR_SUFFIX)}
    assert {p.name for p in aside.iterdir()} == halves
    assert every(node) == [whole]


def test_sidecars_that_changed_places(house: House, verify: Verify) -> None:
    one, other = house.upload(b"content"), house.upload(b"another")
    swap(house, one, other, SIDECAR_SUFFIX)
    assert found(verify()[1]) == {one.key: "damaged", other.key: "damaged"}
    assert house.job("repair").repaired == {"quarantined": 2}
    assert verify()[0] == 0


def test_data_that_changed_places_is_seen_by_its_digests(house: House, verify: Verify) -> None:
    one, other = house.upload(b"content"), house.upload(b"another")
    swap(house, one, other, "")
    assert verify()[0] == 0
    code, report = verify("--digests")
    assert (code, found(report)) == (6, {one.key: "damaged", other.key: "damaged"})
    assert house.job("repair", digests=True).repaired == {"quarantined": 2}
    assert every(house.open() if house.node is None else house.node) == []


def test_halves(house: House, verify: Verify) -> None:
    no_sidecar, no_data, whole = (house.upload() for _ in range(3))
    path(house, no_sidecar, SIDECAR_SUFFIX).unlink()
    path(house, no_data).unlink()
    for _ in range(2):
        code, report = verify()
        assert code == 6
        assert found(report) == {no_sidecar.key: "orphan data", no_data.key: "orphan sidecar"}
        house.close()
    # The next start repairs them by itself: it looks through the last hours.
    assert every(house.open()) == [whole]
    assert verify()[0] == 0


def test_rows_without_files(house: House, verify: Verify) -> None:
    gone, whole = house.upload(), house.upload()
    for suffix in ("", SIDECAR_SUFFIX):
        path(house, gone, suffix).unlink()
    assert (verify()[0], found(verify()[1])) == (6, {gone.key: "missing"})
    assert house.job("rebuild").repaired == {"index entry removed": 1}
    assert house.node is not None
    assert every(house.node) == [whole]
    # Also where the whole directory is gone.
    house.close()
    shutil.rmtree(house.files / whole.storage_path)
    assert found(verify()[1]) == {whole.key: "missing"}


def test_foreign_names_are_listed_and_left_alone(house: House, verify: Verify, tmp_path: Path) -> None:
    attr = house.upload()
    hour = house.files / attr.storage_path
    outside = tmp_path / "outside"
    shutil.copytree(hour, outside)
    (house.files / "README").write_text("at the root")
    (house.files / "2020").symlink_to(outside)
    (hour / "notes.txt").write_text("in an hour")
    (hour / "x.attr.json").write_text("{}")
    (hour / ".attr.json").write_text("{}")
    (hour / os.fsdecode(b"\xff\n")).write_text("no UTF-8")
    (hour.parent / "99").symlink_to(outside)
    (hour.parent / "loop").symlink_to(".")
    backup = house.files / "backup" / "old"
    backup.mkdir(parents=True)
    (backup / "a.zip").write_bytes(b"")
    os.mkfifo(backup / "pipe")
    day, here = str(Path(attr.storage_path).parent), attr.storage_path
    expected = {
        "README", "2020", f"{here}/notes.txt", f"{here}/x.attr.json", f"{here}/.attr.json", f"{day}/99", f"{day}/loop",
        f"{here}/\udcff\n", "backup/old/a.zip", "backup/old/pipe",
    }  # fmt: skip
    before = contents(house.files)
    for _ in range(2):
        code, report = verify("--digests")
        assert (code, report["sound"], report["counts"]["ok"]) == (0, True, 1)
        assert set(found(report).values()) == {"foreign"}
        assert found(report).keys() == expected
        house.close()
    house.open()
    assert house.job("repair").repaired == {}
    assert house.job("rebuild").repaired == {}
    now = contents(house.files)
    assert {k: now[k] for k in before if ".artstore" not in k} == {
        k: v for k, v in before.items() if ".artstore" not in k
    }


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No directory of that name can be opened any more, also not by root."""
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).rpartition("/")[2] == name:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("depth", range(5))
def test_a_foreign_directory_that_cannot_be_read_stops_searches(
    house: House, verify: Verify, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    attr = house.upload()
    house.close()
    parent = Path(*Path(attr.storage_path).parts[:depth])
    (house.files / parent / "@eaDir").mkdir()
    deny(monkeypatch, "@eaDir")
    for cache in (house.home / "state").glob("cache.db*"):
        cache.unlink()
    assert every(house.open()) == [attr]
    for serving in (True, False):
        if not serving:
            house.close()
        code, report = verify()
        assert (code, found(report)) == (0, {str(parent / "@eaDir"): "foreign"})


def test_a_foreign_directory_that_cannot_be_read_stops_the_first_start(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.files / "@eaDir").mkdir(parents=True)
    deny(monkeypatch, "@eaDir")
    house.open()
    attr = house.upload()
    assert house.node is not None
    assert every(house.node) == [attr]


@pytest.mark.parametrize("depth", range(1, 5))
def test_a_directory_of_ours_that_cannot_be_read_is_taken_for_empty(
    house: House, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    attr = house.upload()
    house.close()
    with monkeypatch.context() as patch:
        deny(patch, Path(attr.storage_path).parts[depth - 1])
        assert cli.main(["--home", str(house.home), "verify"]) == 7
        for cache in (house.home / "state").glob("cache.db*"):
            cache.unlink()
        with pytest.raises(Unavailable):
            every(house.open())
        with pytest.raises(Unavailable):
            house.node.kernel.attr(attr.file_id)  # type: ignore[union-attr]
        house.close()
    assert every(house.open()) == [attr]


def test_the_text_is_for_people(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    attr = house.upload()
    (house.files / attr.storage_path / "a\nSound: \x1b[2J").write_text("forges a line")
    house.close()
    assert cli.main(["verify", "--home", str(house.home)]) == 0
    out, err = capsys.readouterr()
    assert "a\\nSound: \\x1b[2J" in out
    assert out.splitlines()[-1].startswith("Sound: 1 ok, 1 foreign (")
    assert err == ""
    os.truncate(path(house, attr), 1)
    assert cli.main(["verify", "--home", str(house.home)]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("damaged         " + attr.key)]
    assert lines[-1].startswith("DAMAGE: 1 damaged, 1 foreign (")


def test_since_leaves_older_hours_out(house: House, verify: Verify) -> None:
    attr = house.upload()
    house.close()
    os.truncate(path(house, attr), 1)
    assert verify("--since", attr.uploaded_at)[0] == 6
    assert verify("--since", "2000-01-01")[0] == 6
    code, report = verify("--since", "2999-01-01T00:00:00Z")
    assert (code, report["counts"]["ok"]) == (0, 0)
    with pytest.raises(SystemExit) as e:
        verify("--since", "yesterday")
    assert e.value.code == 2


def test_a_copy_is_verified_before_anybody_serves_it(house: House, verify: Verify, tmp_path: Path) -> None:
    attr = house.upload()
    shutil.copytree(house.files, tmp_path / "copy" / "files")
    before = contents(tmp_path / "copy")
    house.close()
    house.home = tmp_path / "copy"
    code, report = verify("--digests")
    assert (code, report["cache"], report["counts"]["ok"]) == (0, "there is none yet", 1)
    assert contents(tmp_path / "copy") == before
    os.truncate(path(house, attr), 1)
    assert verify()[0] == 6


def test_a_cache_that_does_not_answer(house: House, verify: Verify) -> None:
    attr = house.upload()
    house.close()
    (house.home / "state" / "cache.db").write_bytes(b"nonsense" * 4096)
    code, report = verify()
    assert (code, report["counts"]["ok"], report["sound"]) == (7, 1, True)
    assert "not" in report["cache"]
    os.truncate(path(house, attr), 1)
    assert verify()[0] == 6


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--home", str(tmp_path / "nowhere")]) == 78
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_what_is_under_way_is_no_damage(house: House, verify: Verify) -> None:
    """An element that is killed between two renames, seen before anybody recovered it."""
    attr, other = house.upload(), house.upload()
    assert house.node is not None
    backend = house.node.kernel.parts.backend
    # A deletion whose data is still there, and a row that nobody removed yet.
    backend.delete(other.key, if_match=backend.read_sidecar(other.key))
    house.node.kernel.parts.cache.remove([other.file_id])
    # An upload whose data has its name and whose sidecar has not.
    writer = backend.create(attr.storage_path + "/new_ivanov_20250111T153045_a1b2c3d4.txt")
    writer.write(b"data")
    (house.files / attr.storage_path / "new_ivanov_20250111T153045_a1b2c3d4.txt").write_bytes(b"data")
    code, report = verify()
    assert (code, report["findings"], report["counts"]["ok"], report["under_way"]) == (0, [], 1, 1)
    assert house.job("repair").repaired == {}
    (house.files / attr.storage_path / "new_ivanov_20250111T153045_a1b2c3d4.txt").unlink()
    writer.abort()


def test_a_deletion_that_begins_between_the_looks_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artstore.maintenance.verify.PAUSE", 0)
    key = "2025/01/11/15/new_ivanov_20250111T153045_a1b2c3d4.txt"
    looks: list[str] = []

    class Busy(MemoryBackend):
        def list(self, directory: str) -> Iterator[Entry]:
            looks.append(directory)
            # The first look lists the root and the directory, and sees half of an upload. It ended since.
            if len(looks) == 3:
                self.store.tombstones[key] = b""
            yield from super().list(directory)

    backend = Busy()
    backend.store.data[key] = Kept(b"data")
    naming = DatedNaming(DatedNaming.Settings(), make_context(tmp_path))
    assert list(Survey(backend=backend, naming=naming, cache=None).findings()) == []
    assert len(looks) == 3


def suspicions(house: House) -> list[tuple[Kind, Key, str]]:
    """What a survey reports beside the element that serves."""
    parts = (house.node or house.open()).kernel.parts
    survey = Survey(backend=parts.backend, naming=parts.naming, cache=parts.cache, log=parts.log)
    return [(f.kind, f.key, f.detail) for f in survey.findings() if f.kind not in HEALTHY]


@pytest.mark.parametrize("second", ["update", "delete"])
def test_a_change_between_index_entry_and_sidecar_is_reported_as_damage(
    house: House, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """At each look the file changes after its entry was read, and before its sidecar is."""
    node, attr = house.open(), house.upload()
    kernel, read = node.kernel, node.kernel.parts.cache.entries_in
    looks = []

    def read_and_change(directory: str) -> Iterator[tuple[FileId, Attr | None]]:
        yield from read(directory)
        looks.append(directory)
        if len(looks) == 2 and second == "delete":
            kernel.delete(BY, attr.file_id, lambda _: None)
        else:
            kernel.update(BY, attr.file_id, lambda _: {"description": f"{len(looks)}"})

    monkeypatch.setattr(kernel.parts.cache, "entries_in", read_and_change)
    assert suspicions(house) == []
    assert looks == [attr.storage_path] * 2


@pytest.mark.parametrize("operation", ["upload", "update", "delete"])
def test_a_change_that_waits_before_its_index_entry_is_reported_as_damage(
    house: House, verify: Verify, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The change stands between sidecar and index entry for longer than both looks take."""
    node, attr, stale = house.open(), house.upload(), house.upload()
    kernel, write = node.kernel, node.kernel.index.write_entry
    there, go_on = threading.Event(), threading.Event()

    def wait(*arguments: Any, **options: Any) -> bool:
        there.set()
        assert go_on.wait(60)
        return write(*arguments, **options)

    monkeypatch.setattr(kernel.index, "write_entry", wait)
    steps: dict[str, Callable[[], object]] = {
        "upload": house.upload,
        "update": lambda: kernel.update(BY, attr.file_id, lambda _: {"description": "new"}),
        "delete": lambda: kernel.delete(BY, attr.file_id, lambda _: None),
    }
    thread = threading.Thread(target=steps[operation])
    thread.start()
    try:
        assert there.wait(60)
        assert suspicions(house) == []
        assert verify()[0] == 0
        # What differs without a change in progress is reported all the same.
        kernel.parts.cache.put([stale.model_copy(update={"revision": 9, "description": "false"})])
        differs = (Kind.STALE, stale.key, "Its index entry differs from its sidecar.")
        assert suspicions(house) == [differs]
        assert found(verify()[1]) == {stale.key: "stale cache"}
    finally:
        go_on.set()
        thread.join()
    kernel.parts.cache.remove([stale.file_id])
    assert suspicions(house) == [(Kind.STALE, stale.key, "It has no index entry.")]


def test_where_only_the_log_traces_uploads_it_is_asked(tmp_path: Path) -> None:
    key = "2025/01/11/15/new_ivanov_20250111T153045_a1b2c3d4.txt"
    backend = MemoryBackend()
    backend.capabilities = dataclasses.replace(backend.capabilities, lists_uploads=False)
    backend.store.data[key] = Kept(b"data")
    wal = FileLog(FileLog.Settings(keep_hours=1, max_size=1 << 20), make_context(tmp_path / "wal"))
    intent = wal.begin("upload", by="ivanov", key=key)
    naming = DatedNaming(DatedNaming.Settings(), make_context(tmp_path))
    survey = Survey(backend=backend, naming=naming, cache=None, log=wal)
    assert list(survey.findings()) == []
    intent.roll_back("given up")
    assert [(f.kind, f.key) for f in survey.findings()] == [(Kind.ORPHAN_DATA, key)]
    wal.close()


def test_verify_beside_an_element_under_load_sees_no_damage(house: House, verify: Verify) -> None:
    node = house.open()
    stop = threading.Event()
    faults: list[BaseException] = []

    def load() -> None:
        try:
            while not stop.is_set():
                attr = house.upload(os.urandom(100))
                node.kernel.update(BY, attr.file_id, lambda a: {"description": "changed"})
                if attr.size % 2 == 0:
                    node.kernel.delete(BY, attr.file_id, lambda a: None)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            code, report = verify("--digests")
            assert (code, report["findings"]) == (0, [])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []


# --- rebuild ---

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"], exclude_characters='/\\'),
                min_size=1, max_size=40).map(lambda s: f"é{s}x.txt")  # fmt: skip
TAGS = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20), max_size=4)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
UPLOADS = st.lists(
    st.fixed_dictionaries(
        {
            "filename": NAMES,
            "description": TEXT,
            "tags": TAGS,
            "metadata": st.dictionaries(TEXT, JSON, max_size=3),
            "unknown": st.dictionaries(TEXT.map(lambda s: f"x-{s}"), JSON, max_size=2),
            "revisions": st.integers(0, 3),
            "content": st.binary(max_size=30),
        }
    ),
    min_size=1,
    max_size=6,
)


def rebuild_is_the_identity_on_every_field(
    tmp_path_factory: pytest.TempPathFactory, uploads: list[dict[str, Any]]
) -> None:
    house = House(tmp_path_factory.mktemp("home"))
    try:
        node = house.open()
        for one in uploads:
            try:
                attr = house.upload(
                    one["content"], filename=one["filename"], description=one["description"],
                    tags=one["tags"], metadata=one["metadata"],
                )  # fmt: skip
            except ArtstoreError:
                continue  # more than a sidecar holds
            unknown = json.loads(path(house, attr, SIDECAR_SUFFIX).read_bytes()) | one["unknown"]
            text = json.dumps(unknown, ensure_ascii=False)
            if len(text.encode()) < 3900:
                path(house, attr, SIDECAR_SUFFIX).write_text(text, encoding="utf-8")
            for n in range(one["revisions"]):
                node.kernel.update(BY, attr.file_id, lambda a, n=n: {"tags": [*a.tags[:2], f"r{n}"]})
        house.job("rebuild")  # for the keys that were put in by hand
        before = answers(node)
        assert house.job("rebuild").repaired == {}
        assert answers(node) == before
        empty(node)
        house.job("rebuild")
        assert answers(node) == before
        house.close()
        shutil.rmtree(house.home / "state")
        assert answers(house.open()) == before
    finally:
        house.close()


REBUILDS = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
test_a_rebuild_is_the_identity_on_every_field = settings(REBUILDS, max_examples=6)(
    given(UPLOADS)(rebuild_is_the_identity_on_every_field)
)
test_a_rebuild_is_the_identity_on_every_field_long = pytest.mark.long(
    settings(REBUILDS, max_examples=6 * LONG)(given(UPLOADS)(rebuild_is_the_identity_on_every_field))
)


def test_a_rebuild_mends_every_kind_of_false_row(house: House) -> None:
    attrs = [house.upload(bytes(n), description=f"number {n}", tags=["t"]) for n in range(12)]
    node = house.node
    assert node is not None
    for n, attr in enumerate(attrs[:6]):
        attrs[n] = node.kernel.update(BY, attr.file_id, lambda a: {"description": "second"})
    before, cache = answers(node), node.kernel.parts.cache
    cache.remove([attrs[0].file_id])
    for n, changes in enumerate((
        {"revision": 9, "description": "from the future"},
        {"description": "false"},
        {"storage_path": "1999/01/01/00"},
        {"tags": ("false",), "size": 999},
        {"original_filename": "false", "uploaded_at": "1999-01-01T00:00:00.000Z"},
    ), start=1):  # fmt: skip
        cache.put([attrs[n].model_copy(update=changes)])
    strange = "00000000-0000-7000-8000-00000000000%d"
    cache.put([
        attrs[7].model_copy(update={"file_id": strange % 1}),  # two rows of one file
        attrs[7].model_copy(update={"file_id": strange % 2, "storage_path": "1999/01/01/00"}),
        attrs[7].model_copy(update={"file_id": strange % 3, "storage_filename": "none"}),
    ])  # fmt: skip
    assert answers(node) != before
    house.job("rebuild")
    assert answers(node) == before
    assert house.job("check").found == {"ok": 12}


def test_a_store_that_stops_answering_half_way_leaves_whole_json(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attr = house.upload()
    path(house, make_old(house, attr)).unlink()
    house.close()
    list_directory = LocalBackend.list

    def failing(self: LocalBackend, directory: str) -> Iterator[Entry]:
        if directory == attr.storage_path:
            raise Unavailable("The disk failed.")
        yield from list_directory(self, directory)

    monkeypatch.setattr(LocalBackend, "list", failing)
    capsys.readouterr()
    assert cli.main(["--home", str(house.home), "verify", "--json"]) == 7
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["error"] == "The disk failed."
    assert [finding["kind"] for finding in told["findings"]] in ([], ["orphan sidecar"])
    assert err == "artstore: The disk failed.\n"


def test_a_rebuild_goes_on_where_a_killed_one_stopped(house: House) -> None:
    attr, next_one = house.upload(), house.upload()
    node = house.node
    assert node is not None
    old = make_old(house, attr)
    empty(node)

    class Killed(BaseException):
        pass

    def dies(job: Job) -> None:
        def show_progress(survey: Survey) -> None:
            if node.jobs.position() == attr.storage_path:
                raise Killed

        job.show_progress = show_progress  # type: ignore[method-assign]
        rebuild(node.kernel.parts, node.kernel.index, job, node.jobs)

    with pytest.raises(Killed):
        node.jobs.run("rebuild", by="test", digests=False, work=dies)
    assert [a.file_id for a in every(node)] == [
        old.file_id
    ]  # what had been gathered of the second hour is lost
    assert node.jobs.newest(limit=1, before=None)[0].status == "failed"
    ended = house.job("rebuild")
    assert ended.repaired == {"continued": 1, "index entry written": 2}
    assert ended.found == {"stale cache": 2}
    assert {a.file_id for a in every(node)} == {old.file_id, attr.file_id, next_one.file_id}
    assert house.job("rebuild").found == {"ok": 3}
    assert house.job("check").found == {"ok": 3}


def test_a_rebuild_passes_by_no_row_that_a_power_cut_would_take(house: House) -> None:
    make_old(house, house.upload())
    node = house.node
    assert node is not None
    empty(node)
    flush, positions = node.kernel.parts.cache.flush, node.jobs.set_position
    done: list[str] = []

    def flushed() -> None:
        flush()
        done.append("flushed")

    def moved(directory: str) -> None:
        positions(directory)
        done.append(f"at {directory}" if directory else "over")

    node.kernel.parts.cache.flush, node.jobs.set_position = flushed, moved  # type: ignore[method-assign]
    node.jobs.run(
        "rebuild",
        by="test",
        digests=False,
        work=lambda job: rebuild(node.kernel.parts, node.kernel.index, job, node.jobs),
    )
    (second,) = (a.storage_path for a in every(node) if a.storage_path != "2020/01/01/00")
    assert done == ["at 2020/01/01/00", "flushed", f"at {second}", "flushed", "over"]


def make_old(house: House, attr: Attr) -> Attr:
    """A file of 2020, as if it had been uploaded then."""
    old = attr.model_copy(
        update={
            "file_id": "016f5e66-e800-7000-8000-0000a1b2c3d4",
            "storage_path": "2020/01/01/00",
            "storage_filename": "report_ivanov_20200101T000000_a1b2c3d4.txt",
            "uploaded_at": "2020-01-01T00:00:00.000Z",
        }
    )
    place = path(house, old)
    place.parent.mkdir(parents=True)
    shutil.copy(path(house, attr), place)
    path(house, old, SIDECAR_SUFFIX).write_bytes(old.encode())
    return old


def empty(node: Node) -> None:
    """All rows are lost, and nothing tells: with its mark the cache is believed."""
    stamp = node.kernel.parts.cache.generation()
    node.kernel.parts.cache.clear()
    node.kernel.parts.cache.set_generation(str(stamp))


def test_readers_and_writers_during_rebuilds(house: House) -> None:
    """Searches lose no true row, ids are never unknown, what is deleted stays away, what is new stays."""
    node = house.open()
    stable = [house.upload(bytes(n)) for n in range(40)]
    ids = {a.file_id for a in stable}
    turn = [0]
    stop = threading.Event()
    faults: list[str] = []
    alive: dict[str, int] = {}

    def read() -> None:
        while not stop.is_set():
            begun, wanted = turn[0], set(ids)
            try:
                seen = {a.file_id for a in every(node, limit=20, sort="size", descending=False, max_size=39)}
            except Unavailable:  # rows are missing, and the element knows it
                seen = wanted
            if turn[0] == begun and not wanted <= seen:
                faults.append(f"search lost {wanted - seen}")
            for attr in stable[::7]:
                if node.kernel.attr(attr.file_id) != attr:
                    faults.append("another attr")

    def write() -> None:
        while not stop.is_set():
            attr = house.upload(bytes(100))
            for n in range(2):
                attr = node.kernel.update(BY, attr.file_id, lambda a, n=n: {"description": f"{n}"})
            if attr.file_id[-1] in "01234567":
                node.kernel.delete(BY, attr.file_id, lambda a: None)
            else:
                alive[attr.file_id] = attr.revision

    def guarded(step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as e:
            faults.append(repr(e))

    threads = [threading.Thread(target=guarded, args=(step,)) for step in (read, write, write)]
    for thread in threads:
        thread.start()
    try:
        for n in range(8):
            if n % 2:  # rows that are missing while it goes on are no missing files
                with node.kernel.index.backlog.repairing():
                    ids -= {a.file_id for a in stable[20:]}
                    turn[0] += 1
                    node.kernel.parts.cache.remove([a.file_id for a in stable[20:]])
                    house.job("rebuild")
                    ids |= {a.file_id for a in stable}
                    turn[0] += 1
            else:
                house.job("rebuild")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    house.job("rebuild")
    rows = {a.file_id: a.revision for a in every(node)}
    assert rows == {a.file_id: 1 for a in stable} | alive
    assert house.job("check").found == {"ok": len(rows)}


# --- bytes flipped ---


def no_flipped_byte_is_served_as_good(
    house: House, of_the_sidecar: bool, flips: list[tuple[int, int]]
) -> None:
    content = b"the very content"
    node = house.node or house.open()
    attr = house.upload(content, description="déjà vu", tags=["a"], metadata={"n": 1})
    sidecar, kept = path(house, attr, SIDECAR_SUFFIX), path(house, attr, SIDECAR_SUFFIX).read_bytes()
    victim = sidecar if of_the_sidecar else path(house, attr)
    changed = bytearray(victim.read_bytes())
    for place, byte in flips:
        changed[place % len(changed)] = byte
    victim.write_bytes(changed)
    try:
        download = node.kernel.download(attr.file_id)
    except (Damaged, NotFound):
        served = None
    else:
        served = b"".join(download.pieces(Span(0, download.attr.size)))
        download.close()
    record = house.job("check", digests=True)
    tells = (
        record.found.get("damaged", 0) + record.found.get("stale cache", 0) + record.found.get("missing", 0)
    )
    if served is not None and hashlib.sha256(served).hexdigest() != attr.sha256:
        assert record.found.get("damaged") == 1
    if bytes(changed) != (kept if victim == sidecar else content):
        # Some bytes of a sidecar say nothing: white space between its keys.
        same = victim == sidecar and says(bytes(changed)) == json.loads(kept)
        assert tells or same
    house.job("rebuild")
    for half in (sidecar, path(house, attr)):
        half.unlink()
    assert house.job("rebuild").found.get("damaged", 0) == 0
    house.job("rebuild")
    assert every(node) == []


FLIPS = given(
    st.booleans(), st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=3)
)
FLIPPED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
test_a_byte_flipped_anywhere_is_never_served_as_good = settings(FLIPPED, max_examples=30)(
    FLIPS(no_flipped_byte_is_served_as_good)
)
test_a_byte_flipped_anywhere_is_never_served_as_good_long = pytest.mark.long(
    settings(FLIPPED, max_examples=30 * LONG)(FLIPS(no_flipped_byte_is_served_as_good))
)


def says(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


# --- jobs ---


def test_one_job_at_a_time_over_all_processes(house: House) -> None:
    node = house.open()
    begun, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        begun.set()
        assert go_on.wait(30)

    record = node.jobs.start("check", by="test", digests=False, work=work)
    assert begun.wait(30)
    assert cli.main(["rebuild", "--home", str(house.home)]) == 1
    with pytest.raises(Conflict, match=record.id):
        house.job("check")
    assert node.jobs.get(record.id).status == "running"
    go_on.set()
    node.jobs.close()
    assert node.jobs.get(record.id).status == "done"
    assert cli.main(["rebuild", "--home", str(house.home)]) == 0
    assert [r.task for r in node.jobs.newest(limit=5, before=None)] == ["rebuild", "check"]


def test_a_job_that_fails_at_a_name_that_is_no_text_lets_others_run(house: House) -> None:
    node = house.open()

    def work(job: Job) -> None:
        raise Unavailable("The disk failed at 2025/d\udcff.")

    record = node.jobs.start("check", by="test", digests=False, work=work)
    node.jobs.close()
    ended = node.jobs.get(record.id)
    assert (ended.status, ended.error) == ("failed", "The disk failed at 2025/d\\udcff.")
    assert house.job("check").status == "done"
