"""docs/writing-a-plugin.md shows the example as it is, every line of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_plugin"
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^<!-- (\S+) -->\n```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_example() -> None:
    assert {name for name, _ in SHOWN} == {
        "pyproject.toml", "src/artstore_boxes/plugin.py", "src/artstore_boxes/backend.py",
        "src/artstore_boxes/auth.py", "tests/test_suites.py",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted({name for name, _ in SHOWN}))
def test_what_is_shown_is_what_is_there(name: str) -> None:
    source = (EXAMPLE / name).read_text(encoding="utf-8")
    blocks = [block for n, block in SHOWN if n == name]
    for block in blocks:
        assert block in source + "\n"
        source = source.replace(block.strip("\n"), "")
    assert source.strip() == "", "the page leaves this out"
