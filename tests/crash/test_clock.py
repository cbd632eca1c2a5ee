"""A clock that is wrong, is set right, or jumps while the element runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import artstore.kernel
from artstore import checkpoint
from artstore.host.boot import open_default
from artstore.ids import now
from artstore.spi import Query
from support import servers
from support.audit import audit, open_intents
from support.uploads import upload


def test_a_start_before_the_checkpoint_is_refused_with_its_cure(tmp_path: Path) -> None:
    home = tmp_path / "home"
    node = open_default(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artstore.kernel, "now", lambda: datetime(2099, 5, 6, 7, tzinfo=UTC))
        made = upload(node.kernel, b"", "from the future.txt")
    node.close()
    record = home / "files" / ".artstore" / checkpoint.CHECKPOINT
    future = json.loads(record.read_bytes()) | {
        "at": "2099-05-06T07:00:00.000Z",
        "directory": "2099/05/06/06",
    }
    record.write_text(json.dumps(future))
    for command in ("recover", "serve"):
        run = servers.artstore(home, command)
        assert run.returncode == 78, run
        assert "the system clock: The clock says" in run.stderr
        assert "2099-05-06T07:00:00.000Z" in run.stderr
        assert "remove .artstore/checkpoint.json" in run.stderr
        assert "Traceback" not in run.stderr
    record.unlink()  # the cure
    node = open_default(home)
    new = upload(node.kernel, b"", "now.txt")
    assert {a.file_id for a in node.kernel.search(Query()).items} == {made.file_id, new.file_id}
    assert made.storage_path == "2099/05/06/07"
    assert node.kernel.attr(made.file_id) == made
    node.close()
    open_default(home).close()
    assert set(audit(home)) == {made.file_id, new.file_id}


def test_a_file_from_before_the_checkpoint_is_in_the_index_after_a_power_cut(tmp_path: Path) -> None:
    """The clock jumped back: a file in an hour before the checkpoint is found again although its entry was lost."""
    home = tmp_path / "home"
    node = open_default(home)
    wal = home / "state" / "wal"
    before = {p: p.stat().st_size for p in wal.iterdir()}
    ago = now() - timedelta(hours=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artstore.kernel, "now", lambda: ago)
        made = upload(node.kernel, b"", "of an hour ago.txt")
    assert checkpoint.precedes(node.kernel.parts, made.storage_path)
    # A power cut removes the entry, which was not synced; the log was.
    node.kernel.parts.cache.remove([made.file_id])
    assert {p: p.stat().st_size for p in wal.iterdir()} != before
    for segment, _ in node.kernel.parts.log.position():
        segment.release()
    again = open_default(home)
    assert [a.file_id for a in again.kernel.search(Query()).items] == [made.file_id]
    again.close()
    assert open_intents(home) == []
    node.close()
