"""Changes within which an element is killed, and what must be true of its store afterwards."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import servers, tracing
from support.audit import audit, open_intents
from support.forkserver import ForkServer
from support.ports import free_port
from support.servers import Element, until

LOST = (OSError, http.client.HTTPException)
SMALL = b"whole " * 100
LARGE = bytes(range(256)) * 6000
"""More than a piece, and more than is fsynced in a batch."""


class SingleProcess(Element):
    """An element of one process, without a parent: see `single_worker.py`."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> SingleProcess:
        def is_ready() -> bool:
            assert not self.is_dead(0), self.log.read_text()
            return self.answers()

        until(is_ready, "start-up")
        return self

    def is_dead(self, within: float) -> bool:
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Let it shut down."""
        self.process.terminate()
        assert self.is_dead(30)


class Launcher:
    """Starts elements below one directory, and kills them all at its end."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._count = 0
        self._elements: list[SingleProcess] = []
        self._server = ForkServer("support.single_worker")

    def start(self, home: Path, *, gate: Path | None = None, tick: float | None = None) -> SingleProcess:
        """Start a process that serves `home`, after `gate` was opened; see `wait_ready`."""
        port, log = free_port(), self.new_path("log")
        process = self._server.fork(log, home=str(home), port=port, gate=gate and str(gate), tick=tick)
        element = SingleProcess("starlette", home, port, process, log)
        self._elements = [*(m for m in self._elements if not m.is_dead(0)), element]
        return element

    def start_closed(self, home: Path) -> tuple[SingleProcess, Callable[[], None]]:
        """Start a process that has not opened its home yet; return it with a function that lets it go on."""
        gate = self.new_path("gate")
        os.mkfifo(gate)
        return self.start(home, gate=gate), lambda: os.close(os.open(gate, os.O_WRONLY))

    def new_path(self, kind: str) -> Path:
        self._count += 1
        return self.place / f"{kind}-{self._count}"

    def close(self) -> None:
        for element in self._elements:
            element.kill()
        self._server.close()


Acknowledged = list[tuple[str, Any, Any]]
"""What was acknowledged: ("there", file, bytes), ("gone", id, None), ("mode", mode, None)."""


@dataclass
class Change:
    """What the client asks of the element; `old` is the file that changes."""

    run: Callable[[Element, dict[str, Any], Acknowledged], None]
    mode: str = "edit"
    makes: int = 0
    """How many files it makes."""


def _made(answer: servers.Answer, body: bytes, acknowledged: Acknowledged) -> None:
    assert answer.status == 201, answer
    acknowledged.append(("there", answer.json(), body))


def _multipart(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    parts = [servers.text("description", "новый"), servers.text("tags", "a"), servers.file(SMALL, "файл.txt")]
    _made(element.post_form(parts), SMALL, acknowledged)


def _raw(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    _made(element.post(LARGE, "large.bin"), LARGE, acknowledged)


def _chosen(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    _made(element.put(str(uuid.uuid4()), SMALL, "chosen.txt"), SMALL, acknowledged)


def _update(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    answer = element.patch(old["file_id"], {"description": "new", "tags": ["x"]})
    assert answer.status == 200, answer
    acknowledged.append(("there", answer.json(), None))


def _delete(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    assert element.ask("DELETE", servers.file_path(old["file_id"])).status == 204
    acknowledged.append(("gone", old["file_id"], None))


def _mode(element: Element, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    answer = element.mode("ro")
    assert answer.status == 200, answer
    acknowledged.append(("mode", "ro", None))


def _end(element: SingleProcess, old: dict[str, Any], acknowledged: Acknowledged) -> None:
    """Shut down with a tombstone, new entries and an old segment."""
    _multipart(element, old, acknowledged)
    _delete(element, old, acknowledged)
    element.process.terminate()
    element.is_dead(30)


CHANGES = {
    "multipart": Change(_multipart, makes=1),
    "raw": Change(_raw, makes=1),
    "chosen": Change(_chosen, makes=1),
    "update": Change(_update),
    "delete": Change(_delete),
    "mode": Change(_mode, mode="rw"),
    "shutdown": Change(_end, makes=1),  # type: ignore[arg-type]
}


@dataclass
class Expected:
    """The state of a store before a change, and what was acknowledged since."""

    before: dict[str, dict[str, Any]]
    acknowledged: Acknowledged = field(default_factory=list)
    mode: str = "edit"

    def check(self, element: Element, change: Change, old: str) -> dict[str, dict[str, Any]]:
        """Check that what was acknowledged is there whole, and the rest whole or gone. Return the files."""
        there = read_files(element)
        assert there == files_on_disk(element.home)
        assert open_intents(element.home) == []
        assert element.pending() == []
        mode = element.get("/api/v1/info").json()["mode"]
        for what, value, body in self.acknowledged:
            if what == "there":
                assert there[value["file_id"]] == value
                if body is not None:
                    assert element.download(value["file_id"]).body == body
            elif what == "gone":
                assert value not in there
                element.get(servers.file_path(value)).problem(404)
            else:
                assert mode == value
        kinds = {what for what, _, _ in self.acknowledged}
        if change is not CHANGES["mode"]:
            assert mode == self.mode
        assert mode in (self.mode, "ro")
        new = there.keys() - self.before.keys()
        assert len(new) <= change.makes, new
        for file_id, attr in self.before.items():
            if file_id != old:
                assert there.get(file_id) == attr
            elif change.run is _update:
                assert there[old] == attr or (
                    there[old]["description"] == "new" and there[old]["revision"] == attr["revision"] + 1
                )
            elif change.run in (_delete, _end):
                assert there.get(old, attr) == attr
                assert "gone" not in kinds or old not in there
            else:
                assert there[old] == attr
        return there


def read_files(element: Element) -> dict[str, dict[str, Any]]:
    """Return every file that the element lists; each is read by its id as well."""
    listed = element.files()
    for file_id, attr in listed.items():
        assert element.get(servers.file_path(file_id)).json() == attr
    return listed


def files_on_disk(home: Path) -> dict[str, dict[str, Any]]:
    """Return the same from the tree, whose bytes are compared with their digests."""
    return {
        file_id: {name: value for name, value in attr.items() if name != "schema_version"}
        for file_id, attr in audit(home).items()
    }


@contextmanager
def copy_of(prepared: Path, place: Path, mode: str = "edit") -> Iterator[Path]:
    """Yield a copy of a prepared home, and remove it afterwards."""
    home = place / f"home-{uuid.uuid4().hex[:8]}"
    shutil.copytree(prepared, home)
    record = home / "files" / ".artstore" / "element.json"
    record.write_text(record.read_text().replace('"mode": "edit"', f'"mode": "{mode}"'))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def sample(calls: list[tracing.Call], few: int) -> list[tracing.Call]:
    """Return all calls that are not SQLite's, and a `few` of SQLite's."""
    sql = [c for c in calls if "/state/cache.db" in c.text]
    kept = [sql[i * (len(sql) - 1) // max(1, few - 1)] for i in range(min(few, len(sql)))]
    return [c for c in calls if c not in sql or c in kept]


ENOUGH = 5
"""Files that a load uploads at most."""


class Load:
    """While the block runs, a client of `element` uploads and downloads, and none of its requests may fail."""

    def __init__(self, element: Element) -> None:
        self.element = element
        self.made: list[dict[str, Any]] = []
        self.failed: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self.made or not (self.over.is_set() or len(self.made) == ENOUGH):
                made = self.element.upload(b"other", "other.txt")
                assert self.element.download(made["file_id"]).body == b"other"
                self.made.append(made)
        except BaseException as e:
            self.failed = e

    def __enter__(self) -> list[dict[str, Any]]:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self.made

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.failed is not None:
            raise self.failed
