"""The drill of docs/operations.md: `files/` alone, in another home, gives the same answers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import servers

pytestmark = pytest.mark.slow

DRILL = Path(__file__).parents[2] / "docs" / "drill.py"


def drill(*options: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", str(DRILL), *options], capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[-1]


def test_drill(tried: Callable[[str], None]) -> None:
    last = drill()
    tried(last)
    found = re.fullmatch(r"(\d+) files, (\d+) answers compared, 0 differ", last)
    assert found
    assert int(found[1]) > 50
    assert int(found[2]) > 200


def test_drill_with_a_home_of_ones_own_changes_nothing(tmp_path: Path) -> None:
    with servers.serving("starlette", tmp_path / "home") as element:
        element.upload(b"mine", "mine.txt", description="d")
        before = element.tree()
        assert drill("--home", str(element.home)).startswith("1 files, ")
        assert element.tree() == before
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["home"]
        element.stop()
