"""Counters of several processes add up, and outlive them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from artstore_http.metrics import RECORDS, Metrics
from artstore_http.prometheus import METRICS, bucket

ROOT = Path(__file__).parents[2]


def test_counters_add_up_under_threads(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    threads = [threading.Thread(target=lambda: [metrics.add("a") for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.add('b{x="й"}', 0.5)
    assert metrics.totals() == {"a": 4000.0, 'b{x="й"}': 0.5}
    metrics.close()


def test_what_the_living_and_the_dead_counted_is_there(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from artstore_http.metrics import Metrics\n"
        "m = Metrics(Path(sys.argv[1])); m.add('a', 5); print('counted', flush=True); sys.stdin.readline()\n"
        "os.kill(os.getpid(), 9)"
    )
    first = Metrics(tmp_path)
    first.add("a", 2)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == "counted\n"
        assert first.totals() == {"a": 7.0}
        assert len(list(tmp_path.iterdir())) == 3  # two and the lock
        other.stdin.write("\n")
    assert other.returncode == -9
    for _ in range(2):
        assert first.totals() == {"a": 7.0}
    assert len(list(tmp_path.iterdir())) == 2
    first.close()
    second = Metrics(tmp_path)
    second.add("a")
    assert second.totals() == {"a": 8.0}
    assert len(list(tmp_path.iterdir())) == 2
    second.close()


def test_where_no_file_can_be_made_it_counts_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    metrics = Metrics(tmp_path / "file")
    metrics.add("a", 3)
    assert metrics.totals() == {"a": 3.0}
    assert "are not shared" in caplog.text


def test_junk_and_too_much_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(os.urandom(1000))
    (tmp_path / "torn").write_bytes(b"\5\0abc")
    metrics = Metrics(tmp_path)
    for n in range(RECORDS + 10):
        metrics.add(f"n{n}")
    metrics.add("x" * 500)
    totals = metrics.totals()
    assert totals["n0"] == 1.0
    assert len(totals) >= RECORDS
    metrics.close()


def test_buckets() -> None:
    assert [bucket(s) for s in (0.0, 0.005, 0.0051, 10, 11)] == ["0.005", "0.005", "0.025", "10", "+Inf"]


def test_each_is_told() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name, (kind, _) in METRICS.items() if f"| `{name}` | {kind} |" not in page] == []
