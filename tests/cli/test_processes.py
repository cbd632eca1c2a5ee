"""Children of the serving process: what they return, raise, and do at their end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import atexit, json, multiprocessing, os, signal, sys
from artstore_granian.processes import run_in_child
from artstore.errors import ArtstoreError, ConfigError, InvalidField, NotFound, StorageFull, Unavailable

class OddConfig(ConfigError):
    def __init__(self, one, two):
        super().__init__(one, place="here", cure=two)

class OddFull(StorageFull):
    def __init__(self, one, two):
        super().__init__(one + two)

def fails(error):
    def function():
        raise error
    return function

def ends():
    atexit.register(lambda: open(sys.argv[1] + "/ended", "w").close())
    return 7

WHAT = {
    "returns": ends,
    "config": fails(OddConfig("wrong", "cure")),
    "full": fails(OddFull("no ", "space")),
    "unavailable": fails(Unavailable("later")),
    "field": fails(InvalidField("name", "too long")),
    "system": fails(PermissionError(13, "Permission denied", "/there")),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fault": lambda: 1 / 0,
}
multiprocessing.set_start_method("fork")
atexit.register(print, "the parent's end", flush=True)
try:
    result = run_in_child(WHAT[sys.argv[2]])
except (ArtstoreError, OSError) as e:
    result = [type(e).__name__, str(e)]
print(json.dumps(result))
"""


def run(what: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, str(place), what],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(("what", "reported"), [
    ("returns", 7),
    ("config", ["ConfigError", "here: wrong\n  cure"]),
    ("full", ["StorageFull", "no space"]),
    ("unavailable", ["Unavailable", "later"]),
    ("field", ["Refused", "too long"]),
    ("system", ["PermissionError", "[Errno 13] Permission denied: '/there'"]),
    ("killed", ["Unavailable", "The process that recovers was killed (exit code -9)."]),
])  # fmt: skip
def test_what_a_child_returns_or_raises_reaches_its_parent(
    what: str, reported: object, tmp_path: Path
) -> None:
    done = run(what, tmp_path)
    answer, _, end = done.stdout.partition("\n")
    assert (done.returncode, json.loads(answer), done.stderr) == (0, reported, "")
    assert end == "the parent's end\n"


def test_a_child_runs_its_exit_handlers(tmp_path: Path) -> None:
    run("returns", tmp_path)
    assert (tmp_path / "ended").exists()


def test_a_bug_in_a_child_is_printed_once(tmp_path: Path) -> None:
    done = run("fault", tmp_path)
    assert (done.returncode, done.stdout) == (1, "the parent's end\n")
    assert done.stderr.count("ZeroDivisionError: division by zero") == 1


WAITING = """
import logging, multiprocessing, os, sys
from artstore_granian import processes

class Release(logging.Handler):
    def emit(self, record):
        if not lines:
            open(fifo, "w").close()  # the child goes on
        lines.append(record.getMessage())

fifo, lines = sys.argv[1], []
os.mkfifo(fifo)
processes.REPORT_INTERVAL = 0.05
processes.log.addHandler(Release())
processes.log.setLevel("INFO")
multiprocessing.set_start_method("fork")
print(processes.run_in_child(lambda: open(fifo).read() or "done"), lines[0])
"""


def test_a_recovery_that_takes_long_is_not_silent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITING, str(tmp_path / "fifo")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "done recovering for 0 s; the element listens once that is done\n", done
