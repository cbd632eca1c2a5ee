"""Verify, repair and rebuild where files lie in S3, and rows and intents in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import NotFound
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.maintenance.jobs import Job, Record
from artstore.maintenance.repair import rebuild, reconcile
from artstore.spi import Query
from artstore_cli import main as cli
from support import s3, servers
from support.postgres import Postgres
from support.uploads import content, upload

HOUR = "2025/01/11/15"

Verify = Callable[..., tuple[int, dict[str, Any]]]


class Remote:
    """An element, and how a stranger sees its store and its database."""

    def __init__(self, home: Path, server: s3.Seaweed, postgres: Postgres) -> None:
        self.home, self._postgres = home, postgres
        self.bucket, self.client = server.bucket(), server.client
        self.prefix = self.bucket.replace("-", "_") + "_"
        shared = {"URL": postgres.url(), "TABLE_PREFIX": self.prefix}
        told = s3.environment(s3.settings(server, self.bucket)) | {"ELEMENT_ID": "se-01", "WAL": "sql"}
        for role in ("CACHE", "WAL"):
            told |= {f"{role}__SQL__{name}": value for name, value in shared.items()}
        self.settings = {f"ARTSTORE_{name}": value for name, value in told.items()}
        servers.prepare(home)

    def open(self) -> Node:
        return open_node(load(home=self.home, environ=self.settings))

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        return self._postgres.ask(statement.format(files=f"{self.prefix}file_metadata"))

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Every table that begins with the prefix, with its rows but for the time of a lease."""
        like = self.prefix.replace("_", "\\_") + "%"
        names = self._postgres.ask(f"SELECT tablename FROM pg_tables WHERE tablename LIKE '{like}'")
        shown = "to_jsonb(t) - 'lease'"
        return {str(n): self._postgres.ask(f"SELECT ({shown})::text FROM {n} t ORDER BY 1") for (n,) in names}

    def objects(self) -> dict[str, tuple[str, str]]:
        """All that lies in the bucket, with tags and times."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        found = [one for page in pages for one in page.get("Contents", ())]
        return {one["Key"]: (one["ETag"], str(one["LastModified"])) for one in found}

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=body)

    def delete(self, *names: str) -> None:
        for name in names:
            self.client.delete_object(Bucket=self.bucket, Key=name)


@pytest.fixture
def remote(
    tmp_path: Path, s3_server: s3.Seaweed, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Remote:
    monkeypatch.setattr("artstore.maintenance.verify.PAUSE", 0.05)
    made = Remote(tmp_path / "home", s3_server, postgres)
    for name, value in made.settings.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def verify(remote: Remote, capsys: pytest.CaptureFixture[str]) -> Verify:
    def verify(*options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = cli.main(["--home", str(remote.home), "verify", "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return verify


def job(node: Node, task: str) -> Record:
    def work(job: Job) -> None:
        if task == "rebuild":
            rebuild(node.kernel.parts, node.kernel.index, job, node.jobs)
        else:
            reconcile(node.kernel.parts, node.kernel.index, job, repair=task == "repair", digests=True)

    return node.jobs.run(task, by="test", digests=True, work=work)  # type: ignore[arg-type]


def rows(remote: Remote) -> list[tuple[object, ...]]:
    """The rows as they are compared: without the numbers that the database gave them."""
    return remote.sql("SELECT (to_jsonb(t) - 'id')::text FROM {files} t ORDER BY file_id")


def test_each_kind_is_told_and_mended(
    remote: Remote, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = remote.open()
    one, two, changed, forgotten, no_data, no_sidecar, garbage, other, gone = (
        upload(node.kernel, b"content %d" % n) for n in range(9)
    )
    assert verify("--digests")[0] == 0
    remote.delete(no_data.key, gone.key, gone.key + ".attr.json", no_sidecar.key + ".attr.json")
    remote.put(garbage.key + ".attr.json", b"\x89PNG\r\n")
    remote.put(other.key, b"CONTENT 7")
    remote.put("notes/a.txt", b"a stranger's")
    old = f"{HOUR}/report_ivanov_20250111T153045_a1b2c3d4.pdf"
    remote.put(old, b"left by nobody knows whom")
    remote.sql(f"UPDATE {{files}} SET original_filename = 'x' WHERE file_id = '{changed.file_id}'")
    remote.sql(f"DELETE FROM {{files}} WHERE file_id = '{forgotten.file_id}'")
    wrong = {
        changed.key: "stale cache", forgotten.key: "stale cache", no_data.key: "orphan sidecar",
        no_sidecar.key: "orphan data", old: "orphan data", garbage.key: "damaged", other.key: "damaged",
        gone.key: "missing", "notes/a.txt": "foreign",
    }  # fmt: skip
    before = remote.objects(), remote.tables()
    code, report = verify("--digests")
    assert (code, report["sound"], report["counts"]["ok"]) == (6, False, 2)
    assert {f["key"]: f["kind"] for f in report["findings"]} == wrong
    assert (remote.objects(), remote.tables()) == before
    # Others might still be writing what is young, as far as anybody knows.
    broken = {key for key, kind in wrong.items() if kind in ("damaged", "orphan data", "orphan sidecar")}
    assert {f.key for f in job(node, "repair").findings if f.done.startswith("left")} == broken
    monkeypatch.setattr("artstore.maintenance.repair.ORPHAN_AGE", 0)
    assert job(node, "repair").repaired == {"quarantined": len(broken)}
    code, report = verify("--digests")
    assert (code, [f["key"] for f in report["findings"]]) == (0, ["notes/a.txt"])
    aside = {key.split("/", 3)[-1] for key in remote.objects() if "/quarantine/" in key}
    assert broken <= aside | {key.removesuffix(".attr.json") for key in aside}
    for attr in (no_data, no_sidecar, garbage, other, gone):
        with pytest.raises(NotFound):
            node.kernel.attr(attr.file_id)
    kept = [one, two, changed, forgotten]
    assert [content(node.kernel, attr.file_id) for attr in kept] == [b"content %d" % n for n in range(4)]
    assert {a.file_id: a for a in node.kernel.search(Query()).items} == {a.file_id: a for a in kept}
    node.close()


def test_a_rebuild_is_the_identity(remote: Remote, verify: Verify) -> None:
    node = remote.open()
    for n in range(5):
        upload(node.kernel, bytes(n))
    before = rows(remote)
    assert len(before) == 5
    assert job(node, "rebuild").repaired == {}
    assert rows(remote) == before
    remote.sql("DELETE FROM {files}")
    assert job(node, "rebuild").repaired == {"index entry written": 5}
    assert rows(remote) == before
    assert node.kernel.parts.cache.totals().files == 5
    node.close()
    remote.sql("DELETE FROM {files}")
    assert cli.main(["--home", str(remote.home), "rebuild", "--json"]) == 0
    assert rows(remote) == before
    assert verify()[0] == 0


def test_looking_makes_nothing(remote: Remote, verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a bucket and a database that are empty, nor where another element's files are."""
    assert verify()[0] == 0
    assert (remote.objects(), remote.tables()) == ({}, {})
    node = remote.open()
    lost = upload(node.kernel, b"content")
    node.close()
    remote.delete(lost.key)
    before = remote.objects(), remote.tables()
    # Who may only read can look as well.
    monkeypatch.setenv("ARTSTORE_BACKEND__S3__ACCESS_KEY_ID", s3.READER)
    assert verify()[0] == 6
    for role in ("CACHE", "WAL"):
        monkeypatch.setenv(f"ARTSTORE_{role}__SQL__TABLE_PREFIX", f"{remote.prefix}other_")
    code, report = verify()
    assert (code, report["cache"]) == (6, "there is none yet")
    assert (remote.objects(), remote.tables()) == before
