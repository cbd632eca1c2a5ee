"""Every call of every change, and of recovery, fails once: the right answer, nothing acknowledged wrongly, no litter,
and it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore.host.boot import open_default
from support.audit import audit, open_intents
from support.long_runs import usual_or_long
from support.uploads import upload

FAILING = Path(__file__).with_name("failing.py")
RELAPSING = Path(__file__).with_name("relapsing.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DONE = {"upload": 201, "update": 200, "delete": 204, "mode": 200, "read": 200, "background": 200}
AGAIN = {"delete": (204, 404), "mode": (200, 409)}
"""What is there already, or gone: the first request may have done it without being able to say so."""


@pytest.fixture
def home() -> Iterator[Path]:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="artstore-faults-") as path:
        yield Path(path) / "home"


def judge(script: str, told: dict[str, Any]) -> None:
    error, status = told["error"], told["status"]
    # A file that takes only a part of what is written is what a full disk looks like, too.
    allowed = {DONE[script], 507 if error in ("ENOSPC", "EDQUOT", "short") else 503}
    allowed |= {503} if script == "background" else set()
    assert status in allowed, str(told)
    assert status == DONE[script] or told["retry"], str(told)
    assert told["synced again"] == [], str(told)
    closed = error == "EROFS" and told["call"] == "fsync"
    # What a closed store refused may have happened, for all the kernel knows: its row is owed until the next tick.
    assert told["search"] == 200 or closed, str(told)
    # In mode ro nothing is to be written, and it is ready; what the background thread syncs may be the cache.
    if closed and script not in ("mode", "background"):
        assert told["ready"][0] == 503, str(told)
        assert "until a restart" in told["ready"][1]["checks"]["store"], str(told)
    done = (*AGAIN.get(script, ()), DONE[script])
    assert told["again"] in (*done, *([503] if closed else [])), str(told)
    assert told.get("reopened", DONE[script]) in done, str(told)
    assert told["mode"] == (told["wished"] if script == "mode" else "edit"), str(told)
    if script not in ("delete", "background"):
        # A deletion that could not be made durable keeps its data, and its tombstone, for the next start.
        assert told["litter"] == [], str(told)
        assert told["after"][0] == 200, str(told)
    if script == "update":
        before, (_, after) = told["before"], told["after"]
        assert after["revision"] - before["revision"] in ((1,) if status == 200 else (0, 1)), str(told)
    elif script not in ("delete", "background"):
        assert told["after"][1] == told["before"], str(told)
    elif status == 204:
        assert told["after"][0] == 404, str(told)


@usual_or_long("full", False, True, timeout=3600)
@pytest.mark.parametrize("script", list(DONE))
def test_every_call_fails_once(
    home: Path, script: str, full: bool, tried: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTSTORE_MODE", "rw" if script == "mode" else "edit")
    monkeypatch.setenv("ARTSTORE_LIMITS__MIN_FREE", "0")
    node = open_default(home)
    old = upload(node.kernel, b"old", "old.txt", description="old").file_id
    node.close()
    every = 1 if full or script in ("upload", "mode", "read") else 3
    run = subprocess.run(
        [sys.executable, "-W", "error", str(FAILING), str(home), script, old, str(every)],
        capture_output=True, text=True, check=False, timeout=3500 if full else 280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Traceback" not in run.stderr, run.stderr[-4000:]
    *faults, end = [json.loads(line) for line in run.stdout.splitlines()]
    for told in faults:
        judge(script, told)
    found = audit(home)
    assert old in found or script in ("delete", "background")
    assert open_intents(home) == []
    assert len(faults) * every >= end["calls"] > 10
    failed = sum(told["status"] != DONE[script] for told in faults)
    tried(f"{script}: {len(faults)} faults in {end['calls']} calls; {failed} refused, the others borne")


def relapsed(script: str, told: dict[str, Any], old: list[str]) -> bool:
    """Judge what one fault left; whether the start, or the settling, was given up for it."""
    said: dict[str, list[Any]] = {"refused": [], "still": [], "answers": [], "there": [], "gone": []}
    for what, value in told["said"]:
        said.setdefault(what, []).append(value)
    assert told["code"] == 0, told
    assert "Traceback" not in told["stderr"], told
    assert "Errno" not in told["stderr"], told  # a sentence, not an exception
    assert said["fault"][0][2] == [], told  # nothing is fsynced after an fsync that failed
    wrong = 1 if told["error"] in ("ENOSPC", "EDQUOT", "short") else 7
    allowed = {"start": [[wrong], [78]] if told["error"] == "EROFS" else [[wrong]], "settle": [[True]]}
    assert said["refused"] in [[], *allowed.get(script, [])], told
    assert not said["still"] or (told["error"] == "EROFS" and "until a restart" in said["still"][0]), told
    (first, seen), (second, again) = told["looks"]
    assert (first, second) == (0, 0), told
    answers, home = dict(seen), Path(told["home"])
    there = audit(home)
    assert answers["files"] == answers["by id"] == there, told
    assert dict(again) == answers | {"report": "nothing to do"}, told
    assert open_intents(home) == [], told
    assert list((home / "state" / "index-pending").iterdir()) == [], told
    for made in said["there"]:
        assert there[made["file_id"]] == made, told
    # The third was buried, and nobody was told; the fourth was let be.
    gone = {*said["gone"], *([] if script == "close" else [old[2]])}
    assert there.keys().isdisjoint(gone), told
    assert old[3] in there, told
    assert sorted(attr["original_filename"] for attr in there.values()) == FILES[script], told
    for by_id, found in said["answers"]:
        asked = {*old[:3], *by_id}
        assert by_id == {i: attr for i, attr in there.items() if i in asked}, told
        assert found in (None, there), told
    if said["answers"] and not said["still"]:
        assert said["answers"][-1][1] == there, told
    return bool(said["refused"])


FILES = {
    "start": ["late.txt", "old-0.txt", "old-3.txt", "whole.txt"],
    "settle": ["late.txt", "old-0.txt", "old-3.txt", "whole.txt"],
    "close": ["last.txt", "old-1.txt", "old-2.txt", "old-3.txt"],
}


@usual_or_long("full", False, True, timeout=3600)
@pytest.mark.parametrize(("script", "every"), [("start", 20), ("settle", 20), ("close", 10)])
def test_every_call_of_recovery_fails_once(
    home: Path, script: str, every: int, full: bool, tried: Callable[[str], None]
) -> None:
    every = 1 if full else every
    run = subprocess.run(
        [sys.executable, "-W", "error", str(RELAPSING), str(home), script, str(every)],
        capture_output=True, text=True, check=False, timeout=3500 if full else 280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    begun, *faults, end = [json.loads(line) for line in run.stdout.splitlines()]
    for told in faults:
        told["said"] = begun["said"] + told["said"]
    refused = sum(relapsed(script, told, begun["old"]) for told in faults)
    assert len(faults) >= end["calls"] // every > 2
    tried(
        f"recovery, {script}: {len(faults)} faults in {end['calls']} calls; {refused} refused, the others borne"
    )
