"""A process that dies at each step of each change leaves the old truth or the new one, never something else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore.host.boot import open_default
from support.audit import audit, open_intents
from support.uploads import upload

DYING = Path(__file__).with_name("dying.py")
DEAD = 99
Tried = Callable[[str], None]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A home with two files, and their ids; the first is the one that will change."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    node = open_default(home)
    made = [upload(node.kernel, b"old" * n, f"old-{n}.txt", description="old") for n in range(2)]
    node.close()
    return home, [attr.file_id for attr in made]


@pytest.fixture
def work() -> Iterator[Path]:
    """Where homes are copied to and broken: in memory where there is such a place, these processes die, not the
    machine."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="artstore-steps-") as path:
        yield Path(path)


def deaths(home: Path, work: Path, script: str, old: str) -> list[dict[str, Any]]:
    """What `dying.py` tells of each death."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(DYING), str(home), str(work), script, old],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def judge(death: dict[str, Any], home: Path) -> dict[str, dict[str, Any]]:
    """What every death must leave: one truth in the tree, in the cache and in the answers, and nothing open."""
    assert death["code"] in (0, DEAD), death
    (first, told), (second, again) = death["looks"]
    assert (first, second) == (0, 0), death
    answers = dict(told)
    there = audit(home)
    assert answers["files"] == there, death
    assert answers["by id"] == there, death
    assert dict(again) == answers | {"report": "nothing to do"}, death
    assert open_intents(home) == [], death
    for what, value in death["said"]:
        if what == "there":
            assert there[value["file_id"]] == value, death
        else:
            assert what == "gone", death
            assert value not in there, death
    return there


@pytest.mark.parametrize(
    ("script", "least"),
    [("upload", 15), ("refused", 5), ("update", 10), ("delete", 10), ("close", 30)],
)
def test_dying_at_each_step(
    prepared: tuple[Path, list[str]], work: Path, tried: Tried, script: str, least: int
) -> None:
    home, (old, other) = prepared
    before = audit(home)
    told = deaths(home, work, script, old)
    for death in told:
        there = judge(death, work / str(death["at"]))
        assert there[other] == before[other]
        new = there.keys() - before.keys()
        if script in ("upload", "close"):
            assert len(new) <= 1
        else:
            assert not new
        if script == "update":
            assert there[old]["description"] in ("old", "new")
        elif script not in ("delete", "close"):
            assert there[old] == before[old]
    assert told[-1]["code"] == 0
    assert len(told) >= least, "the script does less than it did: are its steps still counted?"
    tried(f"{script}: died at {len(told) - 1} steps")


def test_recovery_dying_at_each_step(prepared: tuple[Path, list[str]], work: Path, tried: Tried) -> None:
    """The leftovers of dead processes in every state at once, and a recovery that dies at each of its steps."""
    home = work / "home"
    shutil.copytree(prepared[0], home)
    files = home / "files"
    staging = files / ".artstore" / "staging"
    shard = staging / "1-dead" / "0"
    shard.mkdir(parents=True)
    hour = next(files.glob("2*/*/*/*"))
    directory = str(hour.relative_to(files))
    prefix = directory.replace("/", ",") + ",,"
    victim = next(p for p in hour.glob("old-0*") if p.suffix == ".txt")
    name = "half_ivanov_20250111T153045_0000000"
    (shard / f"{prefix}{name}1.txt").write_bytes(b"data only")
    (shard / f"{prefix}{name}2.txt").write_bytes(b"both")
    (shard / f"{prefix}{name}2.txt.attr.json").write_bytes(b"{}")
    (shard / f"{prefix}{name}3.txt.attr.json").write_bytes(b"{}")
    (hour / f"{name}3.txt").write_bytes(b"data renamed")
    (shard / f"~update~{prefix}{victim.name}.attr.json").write_bytes(b"{}")
    # A deletion that got as far as its tombstone.
    os.rename(f"{victim}.attr.json", files / ".artstore" / "tombstones" / f"{prefix}{victim.name}.attr.json")
    # A power cut that kept the later rename only.
    other = next(p for p in hour.glob("old-1*") if p.suffix == ".txt")
    os.rename(other, shard / f"{prefix}{other.name}")
    told = deaths(home, work, "recover", "-")
    for death in told:
        there = judge(death, work / str(death["at"]))
        assert list(there) == [prepared[1][1]]
    assert len(told) >= 20
    tried(f"recovery: died at {len(told) - 1} steps")
