"""`artstore serve` as an operator has it, two workers behind granian: one is killed within a change, again and again.

The other worker serves on, and the worker that takes its place recovers its changes. The calls are drawn from those of
a first run; test_kill.py goes through all of them, in cheaper processes.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import crashes, servers, tracing
from support.crashes import CHANGES, LOST, Acknowledged, Expected, Load, files_on_disk, read_files
from support.long_runs import usual_or_long
from support.servers import Connection, Element, until

ROUNDS = 4, 100
"""Deaths of workers, in a usual and in a long run."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Pinned(Element):
    """The same element, of which only one worker gets requests."""

    worker = 0

    def connect(self, timeout: float = servers.DEADLINE) -> Connection:
        for _ in range(200):
            connection = super().connect(timeout)
            if servers.holder(connection, [self.worker]):
                return connection
            connection.close()
            if not tracing.alive(self.worker):
                raise ConnectionRefusedError(f"worker {self.worker} is gone")
        raise AssertionError("that worker takes no connection")


def through(element: Element, worker: int) -> Pinned:
    pinned = Pinned(element.adapter, element.home, element.port, element.process, element.log)
    pinned.worker = worker
    return pinned


@usual_or_long("rounds", *ROUNDS)
@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_a_worker_is_killed_within_a_change(
    tmp_path: Path, adapter: str, rounds: int, tried: Callable[[str], None]
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    element = servers.start(adapter, tmp_path / "home", workers=2)
    seen: dict[str, list[tracing.Call]] = {}
    tally: Counter[str] = Counter()
    old: dict[str, Any] = {}
    try:
        one, other = until(lambda: element.workers() if len(element.workers()) == 2 else None, "two workers")
        for name in ("multipart", "update", "raw", "delete"):
            old = through(element, one).upload(crashes.SMALL, "old.txt", description="old")
            with tracing.watched(one, element.home, tmp_path / f"{name}.trace") as trace:
                CHANGES[name].run(through(element, one), old, [])
            seen[name] = trace.calls()
        for round_ in range(rounds):
            # Never the youngest: a worker that dies within seconds of its start is replaced after a pause.
            victim, survivor = one, other
            name = list(seen)[round_ % len(seen)]
            call = replace(dice.choice(seen[name]), thread=0)
            old = through(element, victim).upload(crashes.SMALL, "old.txt", description="old")
            expected = Expected(read_files(element))
            with (
                tracing.doomed(victim, call, tmp_path / f"{round_}.trace", any_thread=True),
                Load(through(element, survivor)) as theirs,
            ):
                dead = attempt(name, through(element, victim), old, expected.acknowledged)
            tally["deaths" if dead else "not reached"] += 1
            expected.before |= {made["file_id"]: made for made in theirs}
            if not dead:
                os.kill(victim, signal.SIGKILL)
            one, other = survivor, until(lambda: successor(element, victim, survivor), "a successor")  # noqa: B023
            through(element, other).wait_idle()
            until(lambda: not list((element.home / "files/.artstore/tombstones").iterdir()), "no tombstone")
            try:
                expected.check(element, CHANGES[name], old["file_id"])
            except AssertionError as e:
                raise AssertionError(f"{name}, killed at {call}; acknowledged {expected.acknowledged}") from e
        before = read_files(element)
        element.kill()
        assert "Traceback" not in element.log.read_text()
        element = servers.start("falcon" if adapter == "starlette" else "starlette", element.home)
        assert read_files(element) == before == files_on_disk(element.home)
        element.stop()
    finally:
        element.kill()
        print(element.log.read_text()[-10_000:])
    tried(f"artstore serve, two workers: {sum(map(len, seen.values()))} calls seen, {dict(tally)}")
    assert tally["deaths"]


def attempt(name: str, element: Pinned, old: dict[str, Any], acknowledged: Acknowledged) -> bool:
    """Make the change; return whether the worker died in it."""
    try:
        CHANGES[name].run(element, old, acknowledged)
    except LOST:
        until(lambda: not tracing.alive(element.worker), "the death of the worker that did not answer")
    return not tracing.alive(element.worker)


def successor(element: Element, victim: int, survivor: int) -> int:
    """The worker that took the place of the dead one, once it serves; 0 while there is none."""
    new = [pid for pid in element.workers() if pid not in (victim, survivor)]
    if not new:
        return 0
    pinned = through(element, new[0])
    try:
        return new[0] if pinned.get("/health/live").status == 200 else 0
    except (*LOST, AssertionError):
        return 0
