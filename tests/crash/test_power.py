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

from support.long_runs import usual_or_long

SEED = 2026
TESTS = Path(__file__).parents[1]
PARTS = 5
STATES = (4, 30, 600), (6, 36, 1000)
"""In a usual and in a long run: disks tried at each cut, cuts of a recording, and the fewest states that a part has."""
HUNTS = 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run_part(what: str, part: int, parts: int, *more: int) -> list[dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash.power", what, str(SEED), str(part), str(parts), *map(str, more)],
        cwd=TESTS, capture_output=True, text=True, check=False, timeout=900 if more and more[0] > 4 else 290,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@usual_or_long("states", *STATES)
@pytest.mark.parametrize("part", range(PARTS))
def test_power_loss(part: int, states: tuple[int, int, int], tried: Any) -> None:
    a_cut, cuts, least = states
    found = run_part("states", part, PARTS, a_cut, cuts)
    for one in found:
        tried(f"{one['name']}: {one['states']} states of a disk, on a tape of {one['lines']} lines")
    assert [one["violations"] for one in found if one["violations"]] == []
    assert len(found) >= 5
    assert sum(one["states"] for one in found) >= least, "the workloads do less than they did"


@pytest.mark.parametrize("part", range(HUNTS))
def test_planted_bugs_are_found(part: int, tried: Any) -> None:
    found = run_part("planted", part, HUNTS)
    tried(f"{len(found)} bugs planted, each found; by {sum(one['states'] for one in found)} states in all")
    assert [one["name"] for one in found if not one["violations"]] == []
    assert len(found) >= 7
