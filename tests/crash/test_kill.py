"""A real element behind real HTTP is killed at each system call that changes its store or its state.

There are three setups, from the cheapest to the real one: an element of one process, whose successor recovers its
changes; the same beside a live process, which recovers them while it serves; and in test_kill_served.py `artstore
serve` itself.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import crashes, servers, tracing
from support.audit import open_intents
from support.crashes import (
    CHANGES,
    LOST,
    Acknowledged,
    Change,
    Expected,
    Launcher,
    Load,
    SingleProcess,
    copy_of,
    read_files,
)
from support.long_runs import usual_or_long
from support.servers import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    # In memory where that is possible: these processes die, not the machine.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="artstore-kill-") as path:
        launcher = Launcher(Path(path))
        try:
            yield launcher
        finally:
            launcher.close()


@pytest.fixture(scope="module")
def prepared(launcher: Launcher) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A stopped home, and its files; the first is the one that changes."""
    home = launcher.place / "prepared"
    servers.prepare(home)
    element = launcher.start(home).wait_ready()
    for name in ("старый.txt", "other.txt"):
        element.upload(crashes.SMALL, name, description="old")
    files = read_files(element)
    element.end()
    return home, files


def warm(element: SingleProcess) -> None:
    """Let every thread start that a request needs, so that a trace can name them."""
    made = element.wait_ready().post(b"", "warm.txt")
    if made.status == 201:
        element.get(servers.file_path(made.json()["file_id"]))


def first(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(f for f in files.values() if f["original_filename"] == "старый.txt")


def attempt(change: Change, element: SingleProcess, old: dict[str, Any], acknowledged: Acknowledged) -> bool:
    """Make the change; return whether the element died in it."""
    try:
        change.run(element, old, acknowledged)
    except LOST:
        assert element.is_dead(30), "no answer, but the process lives"
    return element.is_dead(0.02)


@usual_or_long("full", False, True)
@pytest.mark.parametrize("name", CHANGES)
def test_a_process_is_killed_at_each_call_of_a_change(
    launcher: Launcher,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    name: str,
    full: bool,
    tried: Callable[[str], None],
) -> None:
    change = CHANGES[name]
    home, files = prepared
    old = first(files)
    with copy_of(home, launcher.place, change.mode) as home:
        element = launcher.start(home)
        warm(element)
        with tracing.watched(element.pid, home, launcher.new_path("trace")) as trace:
            change.run(element, old, [])
        calls = trace.calls()
        element.kill()
    tally: Counter[str] = Counter()
    few = calls if full else crashes.sample(calls, few=3)
    for call in few if full or name != "shutdown" else few[random.randrange(2) :: 2]:
        with copy_of(prepared[0], launcher.place, change.mode) as home:
            element = launcher.start(home)
            warm(element)
            expected = Expected(read_files(element), mode=change.mode)
            with tracing.doomed(element.pid, call, launcher.new_path("trace")):
                dead = attempt(change, element, old, expected.acknowledged)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            element.kill()
            again = launcher.start(home).wait_ready()
            try:
                expected.check(again, change, old["file_id"])
            except AssertionError as e:
                raise AssertionError(f"{name}, killed at {call}; acknowledged {expected.acknowledged}") from e
            again.kill()
    report(tried, f"{name}, alone", calls, tally)


def report(tried: Callable[[str], None], what: str, calls: list[tracing.Call], tally: Counter[str]) -> None:
    died = sum(n for k, n in tally.items() if k.startswith("died"))
    missed = sum(tally.values()) - died
    seen = f"{len(calls)} calls seen, " if calls else ""
    tried(f"{what}: {seen}{died} deaths, {missed} not reached")
    assert died, tally
    # The number of calls of a thread before one differs a little from run to run.
    assert missed <= 2 + died // 5, tally


@usual_or_long("full", False, True)
def test_recovery_is_killed_at_each_call(
    launcher: Launcher,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    """Five processes die, each within another change; then the start that recovers their changes is killed too."""
    home, files = prepared
    fatal = {
        "multipart": "renameat2",
        "raw": "renameat",
        "chosen": "fsync",
        "update": "renameat",
        "delete": "fsync",
    }
    elements = {name: launcher.start(home) for name in fatal}
    for element in elements.values():
        warm(element)
    for name in ("update", "delete"):
        files |= {
            f["file_id"]: f for f in [elements[name].upload(crashes.SMALL, f"{name}.txt", description="old")]
        }
    expected = Expected(read_files(elements["raw"]))
    olds = {f["original_filename"]: f for f in expected.before.values()}
    for name, call in fatal.items():
        element = elements[name]
        with tracing.doomed(
            element.pid, tracing.Call(0, call, 1, ""), launcher.new_path("trace"), any_thread=True
        ):
            assert attempt(CHANGES[name], element, olds.get(f"{name}.txt", {}), expected.acknowledged), name
    assert expected.acknowledged == []
    torn, maybe = home, {olds["update.txt"]["file_id"], olds["delete.txt"]["file_id"]}

    with copy_of(torn, launcher.place) as home:
        element, open_home = launcher.start_closed(home)
        with tracing.watched(element.pid, home, launcher.new_path("trace")) as trace:
            open_home()
            element.wait_ready()
        calls = trace.calls()
        element.kill()
    # Threads have not started yet: each call of the first can be reached, and of the cache's those on its WAL.
    points = [(c, None) for c in calls if c.thread == 0]
    wal = [c for c in calls if c.thread and "/state/cache.db-wal>" in c.text]
    points += [
        (replace(c, number=n + 1), "state/cache.db-wal") for n, c in enumerate(wal) if c.name == "pwrite64"
    ]
    kept = {id(c) for c in crashes.sample([c for c, _ in points], few=3)}
    tally: Counter[str] = Counter()
    few = [p for p in points if id(p[0]) in kept]
    for call, path in points if full else few[random.randrange(5) :: 5]:
        with copy_of(torn, launcher.place) as home:
            element, open_home = launcher.start_closed(home)
            with tracing.doomed(
                element.pid, call, launcher.new_path("trace"), any_thread=True, path=path and home / path
            ):
                open_home()
                until(lambda: element.is_dead(0) or element.answers(), "the start, or its end")  # noqa: B023
                dead = element.is_dead(0.02)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            element.kill()
            again = launcher.start(home).wait_ready()
            try:
                there = read_files(again)
                assert there == crashes.files_on_disk(home)
                assert open_intents(home) == []
                assert {i: a for i, a in there.items() if i not in maybe} == {
                    i: a for i, a in expected.before.items() if i not in maybe
                }
                assert olds["delete.txt"]["file_id"] not in there  # its tombstone was there
                assert there[olds["update.txt"]["file_id"]] == olds["update.txt"]  # it died before its rename
            except AssertionError as e:
                raise AssertionError(f"recovery killed at {call}") from e
            again.kill()
    report(tried, "recovery at start", calls, tally)


@usual_or_long("full", False, True)
def test_two_writing_processes_are_killed_at_once(
    launcher: Launcher,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    """Two processes write at the same time; both are killed when one comes to some call."""
    tally: Counter[str] = Counter()
    names = ("write", "openat", "fsync", "renameat2", "renameat", "pwrite64", "unlinkat")
    for number in range(1, 40 if full else 4):
        for name in names:
            with copy_of(prepared[0], launcher.place) as home:
                pair = [launcher.start(home) for _ in range(2)]
                for element in pair:
                    warm(element)
                witnesses = [Writer(element) for element in pair for _ in range(3)]
                call = tracing.Call(0, name, number, "")
                with tracing.doomed(pair[0].pid, call, launcher.new_path("trace"), any_thread=True):
                    for one in witnesses:
                        one.start()
                    dead = pair[0].is_dead(10)
                    pair[1].kill()
                    pair[0].kill()
                for one in witnesses:
                    one.join()
                tally[("died at " if dead else "did not reach ") + name] += 1
                again = launcher.start(home).wait_ready()
                there = read_files(again)
                assert there == crashes.files_on_disk(home)
                assert open_intents(home) == []
                for one in witnesses:
                    one.check(there)
                again.kill()
    report(tried, "two workers at once", [], tally)


class Writer(threading.Thread):
    """A client that uploads, changes and deletes until it has no answer."""

    def __init__(self, element: SingleProcess) -> None:
        super().__init__()
        self.element = element
        self.there: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()
        self.in_doubt: set[str] = set()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                made = self.element.upload(crashes.SMALL, "writer.txt")
                self.there[made["file_id"]] = made
                self.in_doubt.add(made["file_id"])
                changed = self.element.patch(made["file_id"], {"description": "new"})
                assert changed.status == 200, changed
                self.there[made["file_id"]] = changed.json()
                if len(self.there) % 2:
                    answer = self.element.ask("DELETE", servers.file_path(made["file_id"]))
                    assert answer.status == 204, answer
                    self.gone.add(made["file_id"])
                    del self.there[made["file_id"]]
                self.in_doubt.discard(made["file_id"])
        except LOST:
            pass
        except BaseException as e:
            self.failed = e

    def check(self, found: dict[str, dict[str, Any]]) -> None:
        assert self.failed is None, self.failed
        assert not self.gone & found.keys()
        for file_id, attr in self.there.items():
            assert file_id in self.in_doubt or found[file_id] == attr


@usual_or_long("full", False, True)
def test_a_live_process_recovers_the_changes_of_a_killed_one(
    launcher: Launcher,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    for name in ("multipart", "raw", "chosen", "update", "delete"):
        with copy_of(prepared[0], launcher.place) as home:
            other = launcher.start(home, tick=0.05)
            warm(other)
            calls, tally = kill_beside(launcher, other, name, full)
            assert "Traceback" not in other.log.read_text()
            other.kill()
        report(tried, f"{name}, beside another process", calls, tally)


def kill_beside(
    launcher: Launcher, other: SingleProcess, name: str, full: bool
) -> tuple[list[tracing.Call], Counter[str]]:
    """Kill one process after the other within the same change, each at another call."""
    change, home = CHANGES[name], other.home
    calls: list[tracing.Call] = []
    tally: Counter[str] = Counter()
    todo: list[tracing.Call | None] = [None]  # the first one is only watched
    while todo:
        call = todo.pop(0)
        victim = launcher.start(home)
        warm(victim)
        old = victim.upload(crashes.SMALL, "old.txt", description="old")
        expected = Expected(read_files(other))
        if call is None:
            with tracing.watched(victim.pid, home, launcher.new_path("trace")) as trace:
                change.run(victim, old, expected.acknowledged)
            calls = trace.calls()
            todo = [*(calls if full else crashes.sample(calls, few=2)[::2])]
        else:
            with tracing.doomed(victim.pid, call, launcher.new_path("trace")), Load(other) as theirs:
                dead = attempt(change, victim, old, expected.acknowledged)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            expected.before |= {made["file_id"]: made for made in theirs}
        victim.kill()
        until(lambda: is_recovered(home, other), "the other recovers what the dead one left")
        try:
            expected.check(other, change, old["file_id"])
        except AssertionError as e:
            raise AssertionError(f"{name}, killed at {call}; acknowledged {expected.acknowledged}") from e
    return calls, tally


def is_recovered(home: Path, other: SingleProcess) -> bool:
    """Whether nothing is left but what belongs to the live process."""
    internal = home / "files" / ".artstore"
    owners = [p for p in (internal / "staging").iterdir() if not p.name.startswith(f"{other.pid}-")]
    try:
        return not owners and not list((internal / "tombstones").iterdir()) and not open_intents(home)
    except FileNotFoundError:  # a segment that is just being closed
        return False
