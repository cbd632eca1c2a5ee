"""The log in segment files: torn lines, full and failing disks, segments of dead processes, pruning."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ArtstoreError, StorageFull, Unavailable
from artstore.testing import make_context
from artstore_wal.log import FileLog
from artstore_wal.segment import Segment

WRITER = """
import sys
from pathlib import Path
from artstore.testing import make_context
from artstore_wal.log import FileLog
wal = FileLog(FileLog.Settings(keep_hours=1), make_context(Path(sys.argv[1])))
for n in range(3):
    wal.begin("upload", by="dead", file_id=f"done-{n}", key=f"k/{n}").commit()
wal.checkpoint(wal.position())
wal.begin("update", by="dead", file_id="late", key="k/late").commit()
wal.begin("delete", by="dead", file_id="open", key="k/open").sync()
print("written", flush=True)
sys.stdin.read()
"""


def make(directory: Path, segment_size: int = 4 << 20, max_size: int = 1 << 20) -> FileLog:
    log = FileLog(FileLog.Settings(keep_hours=1, max_size=max_size), make_context(directory))
    log.segment_size = segment_size
    return log


@pytest.fixture
def wal(tmp_path: Path) -> FileLog:
    return make(tmp_path / "wal")


def segments(wal: FileLog, pattern: str = "*") -> list[Path]:
    return sorted(wal._directory.glob(pattern))


def test_a_torn_line_is_skipped(wal: FileLog) -> None:
    wal.begin("upload", by="a", file_id="1").commit()
    path = segments(wal)[0]
    with path.open("ab") as f:
        for torn in (b'{"tx": "x", "at', b"", b"null", b"[]", b"5", b'"flushed"', b"\xff\x00", b'{"status": "pending"}',
                     b'{"status": "committed", "tx": "unknown", "at": "x"}', b'{"flushed": "x"}'):  # fmt: skip
            f.write(torn + b"\n")
    wal.begin("upload", by="a", file_id="2")
    assert {t.file_id: t.status for t in wal.transactions()} == {"1": "committed", "2": "pending"}
    wal.close()


def test_a_line_torn_by_a_full_disk_damages_no_other_line(
    wal: FileLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent = wal.begin("upload", by="a", file_id="1")
    write, room = os.write, [10, 0]

    def full(fd: int, data: bytes) -> int:
        if room:
            left = room.pop(0)
            if not left:
                raise OSError(28, "No space left on device")
            data = data[:left]
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        with pytest.raises(StorageFull):
            wal.begin("update", by="a", file_id="never")
    wal.begin("update", by="a", file_id="2").sync()
    intent.commit()
    assert {t.file_id: t.status for t in wal.transactions()} == {"1": "committed", "2": "pending"}
    wal.close()


def test_an_end_that_cannot_be_written_leaves_the_intent_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = make(tmp_path / "wal")
    intent = wal.begin("upload", by="a", file_id="1", key="k/1")

    def full(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        intent.commit()
        wal.close()
    found = list(make(tmp_path / "wal").abandoned())
    assert [[t.file_id for t in a.pending] for a in found] == [["1"]]
    found[0].end(found[0].pending[0], "committed")
    found[0].segment.close()
    assert [t.status for t in wal.transactions()] == ["committed"]


@pytest.mark.parametrize("later", ["begin", "end", "flush", "close"])
def test_an_end_that_a_full_disk_refused_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    wal = make(tmp_path / "wal")
    intents = [wal.begin("upload", by="a", file_id=str(n), key=f"k/{n}") for n in range(4)]
    write, room = os.write, [40]

    def full(fd: int, line: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        written, room[0] = write(fd, line[: room[0]]), 0
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        intents[0].commit()
        intents[1].roll_back("the client went away")
        intents[2].commit()
        wal.position()
    assert [t.status for t in wal.transactions()] == ["pending"] * 4
    if later == "begin":
        wal.begin("upload", by="a", file_id="4", key="k/4").commit()
    if later == "end":
        intents[3].commit()
    if later == "flush":
        wal.checkpoint(wal.position())
    if later == "close":
        wal.close()
    found = {t.file_id: (t.status, t.error) for t in wal.transactions()}
    expected = [("committed", None), ("rolled_back", "the client went away"), ("committed", None)]
    assert [found[str(n)] for n in range(3)] == expected
    assert found["3"][0] == ("committed" if later == "end" else "pending")
    wal.close()


def test_close_closes_segments_without_open_intents_alone(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal")
    wal.begin("upload", by="a", file_id="1").commit()
    wal.checkpoint(wal.position())
    wal.close()
    assert len(segments(wal, "*.settled.jsonl")) == 1
    assert list(make(tmp_path / "wal").abandoned()) == []
    wal.begin("upload", by="a", file_id="2")
    wal.checkpoint(wal.position())
    wal.close()
    (found,) = make(tmp_path / "wal").abandoned()
    assert [t.file_id for t in found.pending] == ["2"]
    found.segment.release()


def test_an_empty_segment_leaves_nothing(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal")
    wal.close()
    assert segments(wal) == []


def test_full_segments_are_closed_by_a_checkpoint(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal", segment_size=200)
    first = wal.begin("upload", by="a", file_id="open")
    for n in range(5):
        wal.begin("upload", by="a", file_id=str(n)).commit()
    wal.checkpoint(wal.position())
    assert len(segments(wal)) > 2
    # The first holds an open intent and the last is being written.
    assert len(segments(wal)) - len(segments(wal, "*.settled.jsonl")) == 2
    first.commit()
    wal.checkpoint(wal.position())
    assert len(segments(wal)) - len(segments(wal, "*.settled.jsonl")) == 1
    wal.close()


def test_an_end_written_beside_a_checkpoint_is_not_checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = make(tmp_path / "wal", segment_size=1)
    intents = [wal.begin("update", by="a", file_id="1", key="k/1")]
    wal.begin("upload", by="a", file_id="2", key="k/2")
    append = Segment._append

    def append_and_end(segment: Segment, record: dict[str, Any], opens: str | None = None) -> tuple[int, int]:
        place = append(segment, record, opens)
        if "flushed" in record and intents:
            intents.pop().commit()
        return place

    monkeypatch.setattr(Segment, "_append", append_and_end)
    wal.checkpoint(wal.position())
    assert segments(wal, "*.settled.jsonl") == []
    wal.checkpoint(wal.position())
    assert len(segments(wal, "*.settled.jsonl")) == 1
    wal.close()


def test_segments_are_closed_beside_writers(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal", segment_size=300, max_size=1 << 30)
    over = threading.Event()

    def write(n: int) -> None:
        for i in range(200):
            wal.begin("upload", by="a", file_id=f"{n}-{i}").commit()

    def flush() -> None:
        while not over.is_set():
            wal.checkpoint(wal.position())

    with ThreadPoolExecutor(5) as pool:
        flushing = pool.submit(flush)
        writing = [pool.submit(write, n) for n in range(4)]
        try:
            for done in writing:
                done.result()
        finally:
            over.set()
        flushing.result()
    found = wal.transactions(limit=10_000)
    assert len(found) == 800
    assert {t.status for t in found} == {"committed"}
    wal.close()


def test_closed_segments_are_removed_by_age_and_size(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal", segment_size=100, max_size=1000)
    for n in range(40):
        wal.begin("upload", by="a", file_id=str(n)).commit()
    wal.checkpoint(wal.position())
    kept = segments(wal, "*.settled.jsonl")
    assert sum(p.stat().st_size for p in kept) <= 1000
    found = sorted(int(t.file_id or -1) for t in wal.transactions(limit=1000))
    assert found == list(range(40 - len(found), 40))
    hours_ago = time.time() - 2 * 3600
    for path in kept:
        os.utime(path, (hours_ago, hours_ago))
    wal.begin("upload", by="a", file_id="new").commit()
    wal.checkpoint(wal.position())
    assert not set(kept) & set(segments(wal))
    wal.close()


@pytest.fixture
def dead(tmp_path: Path) -> Callable[[], None]:
    """Start a process that writes a segment; return a function that kills it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path / "wal")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "written\n"

    def kill() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stdin.close()

    return kill


def test_a_segment_is_recovered_by_one_process_once_its_own_is_dead(
    tmp_path: Path, dead: Callable[[], None]
) -> None:
    wal = make(tmp_path / "wal")
    wal.begin("upload", by="a", file_id="mine")
    assert list(wal.abandoned()) == []
    assert {t.file_id for t in wal.transactions(status="pending")} == {"mine", "open"}
    dead()
    (found,) = wal.abandoned()
    assert [t.file_id for t in found.pending] == ["open"]
    assert [t.file_id for t in found.uncheckpointed] == ["late"]
    # This process owns it now: no other recovers it at the same time.
    assert list(make(tmp_path / "wal").abandoned()) == []
    found.end(found.pending[0], "rolled_back", "the process died")
    found.segment.close()
    assert list(wal.abandoned()) == []
    assert {t.file_id for t in wal.transactions(status="pending")} == {"mine"}
    assert json.loads(segments(wal, "*.settled.jsonl")[0].read_bytes().splitlines()[-1])["error"]
    wal.close()


def test_an_end_is_not_appended_to_a_torn_line(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal")
    wal.begin("upload", by="dead", file_id="1", key="a/1")
    segment = segments(wal)[0]
    with segment.open("ab") as file:
        file.write(b'{"tx":"torn by power lo')
    wal.close()  # its process is gone, and with it the lock
    for found in make(tmp_path / "wal").abandoned():
        found.end(found.pending[0], "rolled_back")
        found.close()
    assert [t.status for t in wal.transactions()] == ["rolled_back"]


def test_a_segment_whose_fsync_failed_gets_no_more_intents(
    wal: FileLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wal.begin("update", by="ivanov", file_id="1", key="a/1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
        with pytest.raises(Unavailable):
            first.sync()
    second = wal.begin("update", by="ivanov", file_id="2", key="a/2")
    second.sync()
    assert len(segments(wal)) == 2
    first.end_in_doubt("lost")
    second.commit()
    wal.checkpoint(wal.position())
    wal.close()
    assert {t.file_id: t.status for t in wal.transactions()} == {"1": "failed", "2": "committed"}
    assert len(segments(wal, "*.settled.jsonl")) == 2


def test_a_copy_that_a_full_disk_cut_short_is_removed(
    tmp_path: Path, wal: FileLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of a segment whose fsync failed."""
    intent, write = wal.begin("update", by="ivanov", file_id="1", key="a/1"), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
        with pytest.raises(Unavailable):
            intent.sync()
    intent.commit()
    position = wal.position()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, line: write(fd, line[:10]))
        position[0][0].close()
    assert list(tmp_path.rglob("*.*")) == segments(wal)
    wal.close()


def test_a_sync_beside_a_failing_one_fails_too(wal: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports an error once for each open file: a sync beside the one that fails reports success."""
    first, second = (wal.begin("update", by="ivanov", file_id=i, key=f"a/{i}") for i in "12")
    beside = threading.Event()
    found: list[int] = []

    def fdatasync(fd: int) -> None:
        found.append(fd)
        if len(found) > 1:
            return beside.set()
        other = pool.submit(second.sync)
        assert not beside.wait(0.2)
        assert not other.done()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(Unavailable):
            first.sync()
    with pytest.raises(Unavailable):
        second.sync()
    assert len(found) == 1
    wal.close()


def test_syncs_share_one_fsync(wal: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    intents = [wal.begin("update", by="ivanov", file_id=str(i), key=f"a/{i}") for i in range(9)]
    found: list[int] = []
    monkeypatch.setattr(os, "fdatasync", found.append)
    for intent in intents:
        intent.sync()
    assert len(found) == 1
    late = wal.begin("update", by="ivanov", file_id="late", key="a/late")
    late.sync()
    assert len(found) == 2
    wal.close()


def test_a_closed_log_neither_writes_nor_syncs_the_file_of_another(
    tmp_path: Path, wal: FileLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal.begin("update", by="ivanov", file_id="1", key="a/1").commit()
    first, second = (wal.begin("update", by="ivanov", file_id=i, key=f"a/{i}") for i in "23")
    number, real = wal.position()[0][0]._file.fd, os.fdatasync

    def close_meanwhile(fd: int) -> None:
        wal.close()
        with (tmp_path / "another's").open("x") as other:
            assert other.fileno() == fd == number
            real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", close_meanwhile)
        with pytest.raises(Unavailable):
            first.sync()
    with (tmp_path / "another's").open("a") as other:
        assert other.fileno() == number
        with pytest.raises(Unavailable):
            second.sync()
        first.commit()
        second.end_in_doubt("closed")
    assert (tmp_path / "another's").read_bytes() == b""
    assert {t.file_id: t.status for t in wal.transactions()} == {
        "1": "committed", "2": "pending", "3": "pending"
    }  # fmt: skip


@pytest.mark.parametrize("call", ["open", "flock", "write"])
@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, Unavailable), (errno.ENOSPC, StorageFull)])
def test_a_log_that_cannot_be_opened_is_opened_later(
    wal: FileLog, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[ArtstoreError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl if call == "flock" else os, call, fail)
        with pytest.raises(kind, match="log"):
            wal.begin("mode", by="ivanov", key="ro")
    wal.begin("mode", by="ivanov", key="ro").commit()
    wal.close()
    assert [t.status for t in wal.transactions()] == ["committed"]
    assert len(segments(wal)) == 1


def test_a_segment_that_cannot_be_read_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = make(tmp_path / "wal")
    wal.begin("upload", by="a", file_id="1")
    wal.close()

    def broken(*_: object) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", broken)
        with pytest.raises(Unavailable, match="Input/output error"):
            list(wal.abandoned())
    (found,) = wal.abandoned()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken)
        found.end(found.pending[0], "committed")
        found.close()  # it keeps its name, and recovery reads it again
    (found,) = wal.abandoned()
    assert [t.status for t in found.uncheckpointed] == ["committed"]
    found.close()
    assert len(segments(wal, "*.settled.jsonl")) == 1


def test_files_of_other_names_are_neither_read_nor_removed(tmp_path: Path) -> None:
    wal = make(tmp_path / "wal", max_size=0)
    line = b'{"tx": "0194567e-8c3a-7d21-8000-000000000001", "at": "2026-01-01T00:00:00.000Z", "status": "pending", '
    line += b'"op": "upload", "by": "theirs"}\n'
    names = (
        "events.jsonl",
        "events.settled.jsonl",
        "1700000000000-7-000001.jsonl",
        "1700000000000-7-000001-0123456g.settled.jsonl",
        "1700000000000-7-000001-01234567.jsonl.settled.jsonl",
        "copy of 1700000000000-7-000001-01234567.jsonl",
    )
    foreign = dict.fromkeys(names, line)
    for name, content in foreign.items():
        (wal._directory / name).write_bytes(content)
        os.utime(wal._directory / name, (0, 0))
    assert list(wal.abandoned()) == []
    assert wal.transactions() == []
    wal.begin("upload", by="a", file_id="1").commit()
    wal.checkpoint(wal.position())
    wal.close()
    assert {name: (wal._directory / name).read_bytes() for name in foreign} == foreign
