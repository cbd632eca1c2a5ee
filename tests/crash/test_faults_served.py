"""`artstore serve` whose system calls fail: the right answer, it serves on, and a restart finds nothing left behind.

A sample, on real servers, of what test_faults.py goes through in cheaper processes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import servers, tracing
from support.audit import open_intents
from support.crashes import files_on_disk, read_files
from support.servers import Answer, Element, file_path, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LONG = [pytest.mark.long, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Fault:
    """A change, the calls of it that fail, the one place that they touch (of the home), and what may be answered."""

    change: str
    calls: str
    error: str
    place: str | None
    statuses: tuple[int, ...]


RENAMES = "rename,renameat,renameat2"
FAULTS = [
    # The last of each list fails an fsync; a second one within ten minutes closes the store.
    [
        Fault("upload", RENAMES, "ENOSPC", "hour", (507,)),
        Fault("update", RENAMES, "EIO", "hour", (503,)),
        Fault(
            "delete", RENAMES, "ENOSPC", "files/.artstore/tombstones", (204,)
        ),  # at the cost of the reserve
        Fault("upload", "pwrite64", "EIO", "state/cache.db-wal", (201,)),
        Fault("upload", "fsync", "EIO", "hour", (503,)),
    ],
    [
        Fault("upload", "openat", "EMFILE", None, (503,)),
        Fault("upload", "write", "ENOSPC", "segment", (507,)),
        Fault("delete", "write", "ENOSPC", "segment", (204,)),  # its tombstone is trace enough
        Fault("update", "fdatasync", "EIO", "segment", (503,)),
        Fault("delete", "fsync", "EIO", "files/.artstore/tombstones", (503,)),
    ],
]


@dataclass
class Client:
    """A client that remembers what was acknowledged."""

    element: Element
    there: dict[str, Any] = field(default_factory=dict)

    def upload(self) -> Answer:
        answer = self.element.post(b"whole " * 100, "a.txt")
        if answer.status == 201:
            self.there[answer.json()["file_id"]] = answer.json()
        return answer

    def update(self) -> Answer:
        file_id = next(iter(self.there))
        answer = self.element.patch(file_id, {"description": random.randbytes(4).hex()})
        if answer.status == 200:
            self.there[file_id] = answer.json()
        return answer

    def delete(self) -> Answer:
        file_id = list(self.there)[-1]
        answer = self.element.ask("DELETE", file_path(file_id))
        if answer.status == 204:
            del self.there[file_id]
        return answer

    def look(self) -> None:
        for file_id, attr in self.there.items():
            assert self.element.get(file_path(file_id)).json() == attr
            assert self.element.download(file_id).body == b"whole " * 100


def place(home: Path, name: str | None, attr: dict[str, Any]) -> Path | None:
    if name == "hour":
        return home / "files" / attr["storage_path"]
    if name == "segment":
        return max((home / "state" / "wal").glob("*.jsonl"), key=lambda p: p.stat().st_mtime_ns)
    return None if name is None else home / name


def apply_faults(client: Client, faults: list[Fault], log: Path) -> None:
    """Cause each fault once, and check that everything works after it."""
    element = client.element
    for fault in faults:
        for _ in range(2):
            assert client.upload().status == 201
        before = dict(client.there)
        there = place(element.home, fault.place, list(client.there.values())[-1])
        (worker,) = element.workers()
        with tracing.failing(worker, fault.calls, fault.error, log, path=there):
            answer = getattr(client, fault.change)()
        assert answer.status in fault.statuses, (fault, answer)
        if answer.status >= 400:
            answer.problem(answer.status)
            assert client.there == before
        client.look()
    assert client.update().status == 200
    assert client.delete().status == 204
    # One failed fsync closes nothing, and the backlog is written.
    until(lambda: element.get("/health/ready").status == 200, "ready")
    element.wait_idle()


@pytest.mark.parametrize("turn", [None, pytest.param(0, marks=LONG), pytest.param(1, marks=LONG)])
def test_a_server_survives_calls_that_fail(
    tmp_path: Path, turn: int | None, tried: Callable[[str], None]
) -> None:
    home, there = tmp_path / "home", {}
    turn = random.randrange(2) if turn is None else turn
    servers.prepare(home)
    # Keys that are a moment old are read again, and that would be the call that fails, without effect.
    os.utime(home / "state" / "keys" / "public.pem", (0, 0))
    for adapter, faults in zip(("starlette", "falcon"), FAULTS[:: 1 if turn else -1], strict=True):
        element = servers.start(adapter, home, settings={"LIMITS__MIN_FREE": "0"})
        client = Client(element, there)
        try:
            assert read_files(element) == there
            apply_faults(client, faults, tmp_path / "strace")
        finally:
            element.process.terminate()
            element.process.wait(60)
        log = element.log.read_text()
        assert "Traceback" not in log, log
        assert files_on_disk(home) == there
        assert open_intents(home) == []
        tried(f"{adapter}: " + ", ".join(f"{f.change} {f.calls} {f.error}" for f in faults))
    element = servers.start("starlette", home)
    try:
        assert read_files(element) == there == files_on_disk(home)
        element.stop()
    finally:
        element.process.kill()
