"""What a client asks of an element that is about to die, and what must hold of its store afterwards."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
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


class Mortal(Element):
    """An element of one process, which dies alone: see `single_worker.py`."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> Mortal:
        def answers() -> bool:
            assert not self.died(0), self.log.read_text()
            try:
                return self.get("/health/live").status == 200
            except LOST:
                return False

        until(answers, "start-up")
        return self

    def died(self, within: float) -> bool:
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        assert self.died(30)


class Nursery:
    """Starts elements below one directory, and ends them all."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._count = 0
        self._born: list[Mortal] = []
        self._server = ForkServer("support.single_worker")

    def birth(self, home: Path, *, gate: Path | None = None, tick: float | None = None) -> Mortal:
        """A process that is about to serve `home`."""
        port, log = free_port(), self.fresh("log")
        process = self._server.fork(log, home=str(home), port=port, gate=gate and str(gate), tick=tick)
        element = Mortal("starlette", home, port, process, log)
        self._born = [*(m for m in self._born if not m.died(0)), element]
        return element

    def fresh(self, kind: str) -> Path:
        self._count += 1
        return self.place / f"{kind}-{self._count}"

    def close(self) -> None:
        for element in self._born:
            element.kill()
        self._server.close()


Said = list[tuple[str, Any, Any]]
"""What was acknowledged: ("there", file, bytes), ("gone", id, None), ("mode", mode, None)."""


@dataclass
class Deed:
    """What the client does with the element: its file `old` is the one that changes."""

    run: Callable[[Element, dict[str, Any], Said], None]
    mode: str = "edit"
    makes: int = 0
    """How many files it makes."""


def _made(answer: servers.Answer, body: bytes, said: Said) -> None:
    assert answer.status == 201, answer
    said.append(("there", answer.json(), body))


def _multipart(element: Element, old: dict[str, Any], said: Said) -> None:
    parts = [servers.text("description", "новый"), servers.text("tags", "a"), servers.file(SMALL, "файл.txt")]
    _made(element.post_form(parts), SMALL, said)


def _raw(element: Element, old: dict[str, Any], said: Said) -> None:
    _made(element.post(LARGE, "large.bin"), LARGE, said)


def _chosen(element: Element, old: dict[str, Any], said: Said) -> None:
    _made(element.put(str(uuid.uuid4()), SMALL, "chosen.txt"), SMALL, said)


def _update(element: Element, old: dict[str, Any], said: Said) -> None:
    answer = element.patch(old["file_id"], {"description": "new", "tags": ["x"]})
    assert answer.status == 200, answer
    said.append(("there", answer.json(), None))


def _delete(element: Element, old: dict[str, Any], said: Said) -> None:
    assert element.ask("DELETE", servers.file_path(old["file_id"])).status == 204
    said.append(("gone", old["file_id"], None))


def _mode(element: Element, old: dict[str, Any], said: Said) -> None:
    answer = element.mode("ro")
    assert answer.status == 200, answer
    said.append(("mode", "ro", None))


def _end(element: Mortal, old: dict[str, Any], said: Said) -> None:
    """A shutdown that finds a tombstone, rows and an old segment to settle."""
    _multipart(element, old, said)
    _delete(element, old, said)
    os.kill(element.pid, signal.SIGTERM)
    element.died(30)


DEEDS = {
    "multipart": Deed(_multipart, makes=1),
    "raw": Deed(_raw, makes=1),
    "chosen": Deed(_chosen, makes=1),
    "update": Deed(_update),
    "delete": Deed(_delete),
    "mode": Deed(_mode, mode="rw"),
    "shutdown": Deed(_end, makes=1),  # type: ignore[arg-type]
}


@dataclass
class Witness:
    """Remembers what was true of a store, and judges what is."""

    before: dict[str, dict[str, Any]]
    said: Said = field(default_factory=list)
    mode: str = "edit"

    def judge(self, element: Element, deed: Deed, old: str) -> dict[str, dict[str, Any]]:
        """What was acknowledged is there whole, the rest whole or gone; the files that are there."""
        there = answers(element)
        assert there == on_disk(element.home)
        assert open_intents(element.home) == []
        assert element.pending() == []
        mode = element.get("/api/v1/info").json()["mode"]
        for what, value, body in self.said:
            if what == "there":
                assert there[value["file_id"]] == value
                if body is not None:
                    assert element.download(value["file_id"]).body == body
            elif what == "gone":
                assert value not in there
                element.get(servers.file_path(value)).problem(404)
            else:
                assert mode == value
        kinds = {what for what, _, _ in self.said}
        if deed is not DEEDS["mode"]:
            assert mode == self.mode
        assert mode in (self.mode, "ro")
        new = there.keys() - self.before.keys()
        assert len(new) <= deed.makes, new
        for file_id, attr in self.before.items():
            if file_id != old:
                assert there.get(file_id) == attr
            elif deed.run is _update:
                assert there[old] == attr or (
                    there[old]["description"] == "new" and there[old]["revision"] == attr["revision"] + 1
                )
            elif deed.run in (_delete, _end):
                assert there.get(old, attr) == attr
                assert "gone" not in kinds or old not in there
            else:
                assert there[old] == attr
        return there


def answers(element: Element) -> dict[str, dict[str, Any]]:
    """Every file that the element lists, asked for by id and downloaded as well."""
    listed: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = element.get(f"/api/v1/files?limit=1000{cursor}").json()
        listed |= {attr["file_id"]: attr for attr in page["items"]}
        if not page["next_cursor"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    for file_id, attr in listed.items():
        assert element.get(servers.file_path(file_id)).json() == attr
    return listed


def on_disk(home: Path) -> dict[str, dict[str, Any]]:
    """The same, read from the tree, whose bytes are compared with their digests."""
    return {
        file_id: {name: value for name, value in attr.items() if name != "schema_version"}
        for file_id, attr in audit(home).items()
    }


@contextmanager
def copied(prepared: Path, place: Path, mode: str = "edit") -> Iterator[Path]:
    """A copy of a prepared home; gone afterwards."""
    home = place / f"home-{uuid.uuid4().hex[:8]}"
    shutil.copytree(prepared, home)
    record = home / "files" / ".artstore" / "element.json"
    record.write_text(record.read_text().replace('"mode": "edit"', f'"mode": "{mode}"'))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def chosen(calls: list[tracing.Call], few: int) -> list[tracing.Call]:
    """All calls that are not SQLite's, and of SQLite's a `few`."""
    sql = [c for c in calls if "/state/cache.db" in c.text]
    kept = [sql[i * (len(sql) - 1) // max(1, few - 1)] for i in range(min(few, len(sql)))]
    return [c for c in calls if c not in sql or c in kept]


ENOUGH = 5


class serving:
    """Within it a client of `element` uploads and downloads, and nothing of it may fail."""

    def __init__(self, element: Element) -> None:
        self.element = element
        self.made: list[dict[str, Any]] = []
        self.failed: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self.made or not (self.over.is_set() or len(self.made) == ENOUGH):
                made = self.element.upload(b"neighbour", "neighbour.txt")
                assert self.element.download(made["file_id"]).body == b"neighbour"
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
