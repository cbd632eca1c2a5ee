"""What a run tells at its end: how much the crash floor tried."""

from __future__ import annotations

from typing import Any

import pytest

TRIED = "tried"


@pytest.fixture
def tried(record_property: Any) -> Any:
    """A function that puts a line under "what was tried" at the end of the run, also from a worker of xdist."""
    return lambda line: record_property(TRIED, line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {line}"
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, line in report.user_properties
        if name == TRIED
    ]
    if lines:
        terminalreporter.section("what was tried")
        for line in sorted(lines):
            terminalreporter.line(line)
