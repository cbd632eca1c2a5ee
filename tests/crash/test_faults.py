"""Every system call of every change and of recovery fails once: the answer is right, nothing is left, it goes on."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support import reports
from support.audit import audit, open_intents
from support.faulty_recovery import DEAD
from support.forkserver import ForkServer
from support.long_runs import usual_or_long

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DONE = {"upload": 201, "update": 200, "delete": 204, "mode": 200, "read": 200, "background": 200}
REPEATED = {"delete": (204, 404), "mode": (200, 409)}
"""Statuses of a repeated request whose first try may have succeeded without being acknowledged."""


@pytest.fixture
def place() -> Iterator[Path]:
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=directory, prefix="artstore-faults-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def changes() -> Iterator[ForkServer]:
    with closing(ForkServer("support.faulty_changes")) as server:
        yield server


@pytest.fixture(scope="module")
def recoveries() -> Iterator[ForkServer]:
    with closing(ForkServer("support.faulty_recovery")) as server:
        yield server


def check_change(script: str, fault: dict[str, Any]) -> None:
    shown = str(fault)
    error, status = fault["error"], fault["status"]
    # A write that is cut short looks like a full disk, too.
    allowed = {DONE[script], 507 if error in ("ENOSPC", "EDQUOT", "short") else 503}
    allowed |= {503} if script == "background" else set()
    assert status in allowed, shown
    assert status == DONE[script] or bool(fault["retry_after"]) == (status == 503), shown
    assert fault["resynced"] == [], shown
    closed = error == "EROFS" and fault["call"] == "fsync"
    # What a closed store refused may have happened, for all the kernel knows: its entry stays in the backlog.
    assert fault["search"] == 200 or closed, shown
    # In mode ro nothing is to be written, so it is ready; what the background thread syncs may be the cache.
    if closed and script not in ("mode", "background"):
        assert fault["ready"][0] == 503, shown
        assert "until a restart" in fault["ready"][1]["checks"]["store"], shown
    done = (*REPEATED.get(script, ()), DONE[script])
    assert fault["repeated"] in (*done, *([503] if closed else [])), shown
    assert fault.get("reopened", DONE[script]) in done, shown
    assert fault["mode"] == (fault["requested"] if script == "mode" else "edit"), shown
    if script not in ("delete", "background"):
        # A deletion that could not be made durable keeps its data, and its tombstone, for the next start.
        assert fault["leftovers"] == [], shown
        assert fault["after"][0] == 200, shown
    if script == "update":
        before, (_, after) = fault["before"], fault["after"]
        assert after["revision"] - before["revision"] in ((1,) if status == 200 else (0, 1)), shown
    elif script not in ("delete", "background"):
        assert fault["after"][1] == fault["before"], shown
    elif status == 204:
        assert fault["after"][0] == 404, shown


@usual_or_long("full", False, True, timeout=3600)
@pytest.mark.parametrize("script", list(DONE))
def test_every_call_of_a_change_fails_once(
    changes: ForkServer, place: Path, script: str, full: bool, tried: Callable[[str], None]
) -> None:
    home, report, log = place / "home", place / "report", place / "log"
    every = 1 if full or script in ("upload", "mode", "read") else 3
    mode = "rw" if script == "mode" else "edit"
    child = changes.fork(log, home=str(home), mode=mode, script=script, every=every, report=str(report))
    code = child.wait(3500 if full else 280)
    written = log.read_text()
    assert code == 0, written[-4000:]
    assert "Traceback" not in written, written[-4000:]
    assert "Warning" not in written, written[-4000:]
    *faults, end = reports.read(report)
    for fault in faults:
        check_change(script, fault)
    assert end["old"] in audit(home) or script in ("delete", "background")
    assert open_intents(home) == []
    assert len(faults) * every >= end["calls"] > 10
    refused = sum(fault["status"] != DONE[script] for fault in faults)
    tried(
        f"{script}: {len(faults)} faults in {end['calls']} calls; {refused} refused, the others without effect"
    )


class Recovery:
    """A home where recovery has much to do, and children that run on copies of it with one fault each."""

    def __init__(self, server: ForkServer, place: Path, script: str) -> None:
        self._server = server
        self._place = place
        self._script = script
        self._count = 0
        self._prepared = place / "prepared"
        self.old = [value for _, value in self._run("fill", self._prepared)[1]]
        self._made = self._die(self._prepared) if script == "start" else []

    def _fork(self, action: str, home: Path, **arguments: Any) -> Callable[[], tuple[int, list[Any], str]]:
        """Start a child; return a function that waits for it, and returns its exit code, report and log."""
        self._count += 1
        report, log = (self._place / f"{self._count}.{kind}" for kind in ("report", "log"))
        child = self._server.fork(log, action=action, home=str(home), report=str(report), **arguments)
        return lambda: (child.wait(60), reports.read(report), log.read_text())

    def _run(self, action: str, home: Path, **arguments: Any) -> tuple[int, list[Any], str]:
        return self._fork(action, home, **arguments)()

    def _die(self, home: Path) -> list[Any]:
        code, made, log = self._run("die", home, old=self.old)
        assert code == DEAD, log
        return made

    def try_fault(self, at: tuple[int, int]) -> tuple[bool, int, bool]:
        """Let call at[0] fail with its error at[1]. Return whether it was reached, how many errors it can have, and
        whether the action was given up."""
        home = self._place / "home"
        shutil.copytree(self._prepared, home)
        arguments: dict[str, Any] = {"old": self.old[:3], "at": at}
        made = self._made
        if self._script == "recover":
            gate = home.with_name("gate")
            os.mkfifo(gate)
            wait = self._fork("recover", home, gate=str(gate), **arguments)
            with gate.open("w") as opened:  # it is open when the child serves
                made = self._die(home)
                opened.write(" ".join(value if name == "gone" else value["file_id"] for name, value in made))
            gate.unlink()
            code, lines, log = wait()
        else:
            code, lines, log = self._run(self._script, home, **arguments)
        found: dict[str, list[Any]] = {
            n: [] for n in ("refused", "still unavailable", "answers", "there", "gone", "fault")
        }
        for name, value in (*made, *lines):
            found[name].append(value)
        shown = f"{at}, exit code {code}, {found}\n{log}"
        assert code == 0, shown
        ((hit, kinds, resynced),) = found["fault"]
        if hit is not None:
            assert resynced == [], shown
            self._check(home, found, hit[1], log, shown)
        shutil.rmtree(home)
        return hit is not None, kinds, bool(found["refused"])

    def _check(self, home: Path, found: dict[str, list[Any]], error: str, log: str, shown: str) -> None:
        assert "Traceback" not in log, shown
        assert "Warning" not in log, shown
        assert "Errno" not in log, shown  # a sentence, not an exception
        wrong = 1 if error in ("ENOSPC", "EDQUOT", "short") else 7
        allowed = {"start": [[wrong]], "recover": [[True]]}
        assert found["refused"] in [[], *allowed.get(self._script, [])], shown
        still = found["still unavailable"]
        assert not still or (error == "EROFS" and "until a restart" in still[0]), shown
        (first, seen, _), (second, again, _) = [self._run("look", home) for _ in range(2)]
        assert (first, second) == (0, 0), shown
        answers, there = dict(seen), audit(home)
        assert answers["files"] == answers["by id"] == there, shown
        assert dict(again) == answers | {"report": "nothing to do"}, shown
        assert open_intents(home) == [], shown
        assert list((home / "state" / "index-pending").iterdir()) == [], shown
        for made in found["there"]:
            assert there[made["file_id"]] == made, shown
        # The deletion of the third was not acknowledged; the fourth was not changed.
        gone = {*found["gone"], *([] if self._script == "close" else [self.old[2]])}
        assert there.keys().isdisjoint(gone), shown
        assert self.old[3] in there, shown
        assert sorted(attr["original_filename"] for attr in there.values()) == FILES[self._script], shown
        for by_id, listed in found["answers"]:
            asked = {*self.old[:3], *by_id}
            assert by_id == {i: attr for i, attr in there.items() if i in asked}, shown
            assert listed in (None, there), shown
        if found["answers"] and not still:
            assert found["answers"][-1][1] == there, shown


FILES = {
    "start": ["late.txt", "old-0.txt", "old-3.txt", "whole.txt"],
    "recover": ["late.txt", "old-0.txt", "old-3.txt", "whole.txt"],
    "close": ["last.txt", "old-1.txt", "old-2.txt", "old-3.txt"],
}
"""What is there in the end."""


@usual_or_long("full", False, True, timeout=3600)
@pytest.mark.parametrize(("script", "every"), [("start", 20), ("recover", 20), ("close", 10)])
def test_every_call_of_recovery_fails_once(
    recoveries: ForkServer, place: Path, script: str, every: int, full: bool, tried: Callable[[str], None]
) -> None:
    """In a usual run only each `every`-th call fails, with one of its errors."""
    every = 1 if full else every
    recovery = Recovery(recoveries, place, script)
    n, kind, count, refused = 1 + random.randrange(every), 0, 0, 0
    while True:
        hit, kinds, given_up = recovery.try_fault((n, kind if full else random.randrange(4)))
        if not hit:
            break
        count, refused, kind = count + 1, refused + given_up, kind + 1
        if not full or kind >= kinds:
            n, kind = n + every, 0
    calls = n - 1
    assert count >= calls // every > 2
    tried(
        f"recovery, {script}: {count} faults in {calls} calls; {refused} refused, the others without effect"
    )
