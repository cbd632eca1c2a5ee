"""A real element behind real HTTP is killed at each system call that changes its store or its state.

Three shapes, from the cheapest to the real thing: an element of one process alone, whose successor recovers its
changes; the same beside a live worker, which recovers them while it serves; and in test_kill_served.py `artstore
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

from support import deaths, servers, tracing
from support.audit import open_intents
from support.deaths import DEEDS, LOST, Deed, Mortal, Nursery, Said, Witness, answers, copied, serving
from support.long_runs import usual_or_long
from support.servers import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    # In memory where there is such a place: these processes die, not the machine.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="artstore-kill-") as path:
        nursery = Nursery(Path(path))
        try:
            yield nursery
        finally:
            nursery.close()


@pytest.fixture(scope="module")
def prepared(nursery: Nursery) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A home at rest, and its files; the first is the one that changes."""
    home = nursery.place / "prepared"
    servers.prepare(home)
    element = nursery.birth(home).ready()
    for name in ("старый.txt", "other.txt"):
        element.upload(deaths.SMALL, name, description="old")
    files = answers(element)
    os.kill(element.pid, 15)
    assert element.died(30)
    return home, files


def warm(element: Mortal) -> None:
    """Let every thread be born that a request needs, so that a trace can name them."""
    made = element.ready().post(b"", "warm.txt")
    if made.status == 201:
        element.get(servers.file_path(made.json()["file_id"]))


def first(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(f for f in files.values() if f["original_filename"] == "старый.txt")


def attempt(deed: Deed, element: Mortal, old: dict[str, Any], said: Said) -> bool:
    """Whether the element died of it."""
    try:
        deed.run(element, old, said)
    except LOST:
        assert element.died(30), "no answer, and no death either"
    return element.died(0.02)


@usual_or_long("full", False, True)
@pytest.mark.parametrize("name", DEEDS)
def test_killed_alone_and_opened_again(
    nursery: Nursery,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    name: str,
    full: bool,
    tried: Callable[[str], None],
) -> None:
    deed = DEEDS[name]
    home, files = prepared
    old = first(files)
    with copied(home, nursery.place, deed.mode) as home:
        element = nursery.birth(home)
        warm(element)
        with tracing.watched(element.pid, home, nursery.fresh("trace")) as trace:
            deed.run(element, old, [])
        calls = trace.calls()
        element.kill()
    tally: Counter[str] = Counter()
    few = calls if full else deaths.chosen(calls, few=3)
    for call in few if full or name != "shutdown" else few[random.randrange(2) :: 2]:
        with copied(prepared[0], nursery.place, deed.mode) as home:
            element = nursery.birth(home)
            warm(element)
            witness = Witness(answers(element), mode=deed.mode)
            with tracing.doomed(element.pid, call, nursery.fresh("trace")):
                dead = attempt(deed, element, old, witness.said)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            element.kill()
            again = nursery.birth(home).ready()
            try:
                witness.judge(again, deed, old["file_id"])
            except AssertionError as e:
                raise AssertionError(f"{name}, killed at {call}; acknowledged {witness.said}") from e
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
def test_recovery_killed(
    nursery: Nursery,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    """Five processes die at once, each within another change; then the start that settles them dies as well."""
    home, files = prepared
    fatal = {
        "multipart": "renameat2",
        "raw": "renameat",
        "chosen": "fsync",
        "update": "renameat",
        "delete": "fsync",
    }
    elements = {name: nursery.birth(home) for name in fatal}
    for element in elements.values():
        warm(element)
    for name in ("update", "delete"):
        files |= {
            f["file_id"]: f for f in [elements[name].upload(deaths.SMALL, f"{name}.txt", description="old")]
        }
    witness = Witness(answers(elements["raw"]))
    olds = {f["original_filename"]: f for f in witness.before.values()}
    for name, call in fatal.items():
        element = elements[name]
        with tracing.doomed(
            element.pid, tracing.Call(0, call, 1, ""), nursery.fresh("trace"), any_thread=True
        ):
            assert attempt(DEEDS[name], element, olds.get(f"{name}.txt", {}), witness.said), name
    assert witness.said == []
    torn, maybe = home, {olds["update.txt"]["file_id"], olds["delete.txt"]["file_id"]}

    def opening(home: Path) -> tuple[Mortal, Callable[[], None]]:
        """An element that is not open yet, and what lets it."""
        gate = nursery.fresh("gate")
        os.mkfifo(gate)
        element = nursery.birth(home, gate=gate)
        return element, lambda: os.close(os.open(gate, os.O_WRONLY))

    with copied(torn, nursery.place) as home:
        element, let = opening(home)
        with tracing.watched(element.pid, home, nursery.fresh("trace")) as trace:
            let()
            element.ready()
        calls = trace.calls()
        element.kill()
    # Threads are yet to be born: of the first one each call can be reached; of the cache's those of its WAL.
    points = [(c, None) for c in calls if c.thread == 0]
    wal = [c for c in calls if c.thread and "/state/cache.db-wal>" in c.text]
    points += [
        (replace(c, number=n + 1), "state/cache.db-wal") for n, c in enumerate(wal) if c.name == "pwrite64"
    ]
    kept = {id(c) for c in deaths.chosen([c for c, _ in points], few=3)}
    tally: Counter[str] = Counter()
    few = [p for p in points if id(p[0]) in kept]
    for call, path in points if full else few[random.randrange(5) :: 5]:
        with copied(torn, nursery.place) as home:
            element, let = opening(home)
            with tracing.doomed(
                element.pid, call, nursery.fresh("trace"), any_thread=True, path=path and home / path
            ):
                let()
                until(lambda: element.died(0) or responds(element), "the start, or its end")  # noqa: B023
                dead = element.died(0.02)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            element.kill()
            again = nursery.birth(home).ready()
            try:
                there = answers(again)
                assert there == deaths.on_disk(home)
                assert open_intents(home) == []
                assert {i: a for i, a in there.items() if i not in maybe} == {
                    i: a for i, a in witness.before.items() if i not in maybe
                }
                assert olds["delete.txt"]["file_id"] not in there  # its tombstone was there
                assert there[olds["update.txt"]["file_id"]] == olds["update.txt"]  # it died before its rename
            except AssertionError as e:
                raise AssertionError(f"recovery killed at {call}") from e
            again.kill()
    report(tried, "recovery at start", calls, tally)


def responds(element: Mortal) -> bool:
    try:
        return element.get("/health/live").status == 200
    except LOST:
        return False


@usual_or_long("full", False, True)
def test_killed_together(
    nursery: Nursery,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    """Two workers that write in the same moment, and the end of both when one comes to some call."""
    tally: Counter[str] = Counter()
    names = ("write", "openat", "fsync", "renameat2", "renameat", "pwrite64", "unlinkat")
    for number in range(1, 40 if full else 4):
        for name in names:
            with copied(prepared[0], nursery.place) as home:
                pair = [nursery.birth(home) for _ in range(2)]
                for element in pair:
                    warm(element)
                witnesses = [Crowd(element) for element in pair for _ in range(3)]
                call = tracing.Call(0, name, number, "")
                with tracing.doomed(pair[0].pid, call, nursery.fresh("trace"), any_thread=True):
                    for one in witnesses:
                        one.start()
                    dead = pair[0].died(10)
                    pair[1].kill()
                    pair[0].kill()
                for one in witnesses:
                    one.join()
                tally[("died at " if dead else "did not reach ") + name] += 1
                again = nursery.birth(home).ready()
                there = answers(again)
                assert there == deaths.on_disk(home)
                assert open_intents(home) == []
                for one in witnesses:
                    one.judge(there)
                again.kill()
    report(tried, "two workers at once", [], tally)


class Crowd(threading.Thread):
    """A client that uploads, changes and deletes until nobody answers."""

    def __init__(self, element: Mortal) -> None:
        super().__init__()
        self.element = element
        self.there: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()
        self.doubtful: set[str] = set()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                made = self.element.upload(deaths.SMALL, "crowd.txt")
                self.there[made["file_id"]] = made
                self.doubtful.add(made["file_id"])
                changed = self.element.patch(made["file_id"], {"description": "new"})
                assert changed.status == 200, changed
                self.there[made["file_id"]] = changed.json()
                if len(self.there) % 2:
                    answer = self.element.ask("DELETE", servers.file_path(made["file_id"]))
                    assert answer.status == 204, answer
                    self.gone.add(made["file_id"])
                    del self.there[made["file_id"]]
                self.doubtful.discard(made["file_id"])
        except LOST:
            pass
        except BaseException as e:
            self.failed = e

    def judge(self, found: dict[str, dict[str, Any]]) -> None:
        assert self.failed is None, self.failed
        assert not self.gone & found.keys()
        for file_id, attr in self.there.items():
            assert file_id in self.doubtful or found[file_id] == attr


@usual_or_long("full", False, True)
def test_killed_beside_a_worker_that_recovers_its_changes(
    nursery: Nursery,
    prepared: tuple[Path, dict[str, dict[str, Any]]],
    full: bool,
    tried: Callable[[str], None],
) -> None:
    for name in ("multipart", "raw", "chosen", "update", "delete"):
        with copied(prepared[0], nursery.place) as home:
            neighbour = nursery.birth(home, tick=0.05)
            warm(neighbour)
            calls, tally = beside(nursery, neighbour, name, full)
            assert "Traceback" not in neighbour.log.read_text()
            neighbour.kill()
        report(tried, f"{name}, beside a neighbour", calls, tally)


def beside(
    nursery: Nursery, neighbour: Mortal, name: str, full: bool
) -> tuple[list[tracing.Call], Counter[str]]:
    """Victims that die of one deed, one after the other, each at another call."""
    deed, home = DEEDS[name], neighbour.home
    calls: list[tracing.Call] = []
    tally: Counter[str] = Counter()
    todo: list[tracing.Call | None] = [None]  # the first one is only watched
    while todo:
        call = todo.pop(0)
        victim = nursery.birth(home)
        warm(victim)
        old = victim.upload(deaths.SMALL, "old.txt", description="old")
        witness = Witness(answers(neighbour))
        if call is None:
            with tracing.watched(victim.pid, home, nursery.fresh("trace")) as trace:
                deed.run(victim, old, witness.said)
            calls = trace.calls()
            todo = [*(calls if full else deaths.chosen(calls, few=2)[::2])]
        else:
            with tracing.doomed(victim.pid, call, nursery.fresh("trace")), serving(neighbour) as theirs:
                dead = attempt(deed, victim, old, witness.said)
            tally[("died at " if dead else "did not reach ") + call.name] += 1
            witness.before |= {made["file_id"]: made for made in theirs}
        victim.kill()
        until(lambda: settled(home, neighbour), "the neighbour settles what the dead one left")
        try:
            witness.judge(neighbour, deed, old["file_id"])
        except AssertionError as e:
            raise AssertionError(f"{name}, killed at {call}; acknowledged {witness.said}") from e
    return calls, tally


def settled(home: Path, neighbour: Mortal) -> bool:
    """Nothing is there any more but what belongs to the living."""
    internal = home / "files" / ".artstore"
    owners = [p for p in (internal / "staging").iterdir() if not p.name.startswith(f"{neighbour.pid}-")]
    try:
        return not owners and not list((internal / "tombstones").iterdir()) and not open_intents(home)
    except FileNotFoundError:  # a segment that is just being settled
        return False
