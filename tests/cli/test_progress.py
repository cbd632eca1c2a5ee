"""The progress bar of long work."""

from __future__ import annotations

import io
import os

import pytest

from artstore_cli.progress import Bar, line


@pytest.mark.parametrize(
    ("files", "total", "size", "seconds", "shown"),
    [
        (0, None, 0, 0.0, "0 files  0/s"),
        (500, None, 0, 10.0, "500 files  50/s"),
        (500, 1000, 0, 10.0, "[############            ]  50%  500 of 1,000 files  50/s  0:00:10 left"),
        (0, 1000, 0, 1.0, "[                        ]   0%  0 of 1,000 files  0/s"),
        (2000, 1000, 0, 1.0, "[########################] 100%  2,000 of 1,000 files  2,000/s  0:00:00 left"),
        (
            10,
            36010,
            5 << 20,
            1.0,
            "[                        ]   0%  10 of 36,010 files  10/s  5 MiB/s  1:00:00 left",
        ),
        (3, 0, 0, 1.0, "3 files  3/s"),
    ],
)
def test_the_line_shows_rate_and_time_left(
    files: int, total: int | None, size: int, seconds: float, shown: str
) -> None:
    assert line(files, total, size, seconds) == shown


def test_the_bar_is_drawn_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artstore_cli.progress._INTERVAL", 0)
    master, slave = os.openpty()
    with open(slave, "w") as terminal:
        bar = Bar(terminal)
        bar.draw(5, 10)
        bar.clear()
        drawn = ""
        while "5 of 10 files" not in drawn or not drawn.endswith(
            "\r\x1b[K"
        ):  # a terminal delivers it in pieces
            drawn += os.read(master, 4096).decode()
    os.close(master)
    pipe = io.StringIO()
    bar = Bar(pipe)
    bar.draw(5, 10)
    bar.clear()
    assert pipe.getvalue() == ""
