"""Power loss at every point of every workload: what was acknowledged is there, and nothing is left half.

The work is done in processes of their own (`power.py`): they fork, set the clock, and plant bugs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEED = 2026
TESTS = Path(__file__).parents[1]
PARTS, LEAST = 5, 600
HUNTS = 4


def told(what: str, part: int, parts: int) -> list[dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash.power", what, str(SEED), str(part), str(parts)],
        cwd=TESTS, capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_power_loss(part: int, tried: Any) -> None:
    found = told("states", part, PARTS)
    for one in found:
        tried(f"{one['name']}: {one['states']} states of a disk, on a tape of {one['lines']} lines")
    assert [one["violations"] for one in found if one["violations"]] == []
    assert len(found) >= 5
    assert sum(one["states"] for one in found) >= LEAST, "the workloads do less than they did"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(HUNTS))
def test_planted_bugs_are_found(part: int, tried: Any) -> None:
    found = told("planted", part, HUNTS)
    tried(f"{len(found)} bugs planted, each found; by {sum(one['states'] for one in found)} states in all")
    assert [one["name"] for one in found if not one["violations"]] == []
    assert len(found) >= 7
