"""The pages read as they should: links and anchors lead somewhere, fences close, tables are whole.

There is no build: the pages are Markdown as code hosts show it, so what can go wrong is checked here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^\s*(`{3,})(.*)$")


def prose(page: Path) -> list[str]:
    """The lines outside fences. Fails on a fence that does not close."""
    found: list[str] = []
    fence = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1] == fence and not mark[2].strip():
            fence = ""
        elif not fence:
            found.append(line)
    assert not fence, f"{page.name}: a fence is open at the end"
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as code hosts make them."""
    found: set[str] = set()
    for line in prose(page):
        heading = re.match(r"#{1,6} +(.*)", line)
        if heading:
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
            number = sum(1 for a in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a))
            found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", "\n".join(prose(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name} leads to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} leads to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tables_are_whole(page: Path) -> None:
    columns = 0
    for line in prose(page):
        if not line.startswith("|"):
            columns = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        assert line.rstrip().endswith("|"), f"{page.name}: {line}"
        assert columns in (0, cells), f"{page.name}: {line}"
        columns = cells


def test_every_page_is_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"(docs/{p.name})" not in readme] == []


def test_what_should_be_told_has_its_page() -> None:
    pages = {"terms", "architecture", "protocol", "writing-a-plugin", "configuration", "http-api", "operations", "why",
             "stability"}  # fmt: skip
    assert pages <= {p.stem for p in (ROOT / "docs").glob("*.md")}
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "```mermaid" in architecture


def test_every_variable_of_the_environment_is_told() -> None:
    told = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    read = {
        name
        for root in ("kernel", "plugins", "adapters")
        for path in (ROOT / root).rglob("*.py")
        for name in re.findall(
            r"environ\b[^\n]*?[\"']([A-Z][A-Z0-9_]+)[\"']", path.read_text(encoding="utf-8")
        )
    } - {"USER"}
    assert {"ARTSTORE_CONFIG", "ARTSTORE_HOME", "ARTSTORE_PLUGINS"} <= read
    assert [name for name in sorted(read) if f"`{name}`" not in told] == []


def test_every_switch_of_the_tests_is_told() -> None:
    told = "".join(
        (ROOT / page).read_text(encoding="utf-8") for page in ("CONTRIBUTING.md", "docs/configuration.md")
    )
    switches = {
        name
        for place in ("tests", "bench")
        for path in (ROOT / place).rglob("*.py")
        for name in re.findall(
            r"environ(?:\.get\(|\[)[\"']([A-Z][A-Z0-9_]+)[\"']", path.read_text(encoding="utf-8")
        )
    } | {"CI_PYTHONS"}
    known = set(os.environ) | {"PYTHONPATH", "PATH", "HOME"}
    assert [name for name in sorted(switches - known) if name not in told] == []
