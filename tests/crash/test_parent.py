"""The parent process of `artstore serve`, and the workers that it starts in place of dead ones."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artstore import checkpoint
from support import servers, tracing
from support.ports import free_port
from support.servers import Element, start, until

ADAPTERS = ["starlette", "falcon"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_workers_end_with_the_process_that_serves(adapter: str, tmp_path: Path) -> None:
    element = start(adapter, tmp_path / "home", workers=2)
    os.kill(element.workers()[0], signal.SIGBUS)
    until(lambda: "Fatal Python error: Bus error" in element.log.read_text(), "the fault handler writes")
    workers = element.workers()
    element.process.send_signal(signal.SIGKILL)
    element.process.wait()
    until(lambda: not any(map(tracing.alive, workers)), "the end of the workers")


def two_workers(element: Element) -> list[int]:
    """Both workers, once both serve."""
    pids = until(lambda: found if len(found := element.workers()) == 2 else None, "two workers")
    seen: set[int] = set()

    def serve_both() -> bool:
        with suppress(ConnectionRefusedError), element.connect() as connection:  # none of them listens yet
            seen.add(servers.holder(connection, pids))
        return seen.issuperset(pids)

    until(serve_both, "both accept connections")
    return list(pids)


@contextmanager
def always_answers(element: Element) -> Iterator[None]:
    """A reader on one connection after the other gets its answer, each time, while the block runs."""
    over, lost = threading.Event(), [0, 0]

    def read() -> None:
        while not over.wait(0.05):
            lost[1] += 1
            # One that a dying worker had accepted is reset; a second one goes to a worker that lives.
            lost[0] += not (element.answers() or element.answers())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
    assert lost[0] == 0, f"{lost[0]} of {lost[1]} unanswered"
    assert lost[1] > 0


def set_the_clock_back(home: Path) -> None:
    """Let the store have been in use an hour from now, as the clock shows it after it was set back."""
    record = home / "files" / ".artstore" / checkpoint.CHECKPOINT
    record.write_text(json.dumps(json.loads(record.read_bytes()) | {"at": "2099-05-06T07:00:00.000Z"}))


def save_a_slip(home: Path) -> None:
    (home / "artstore.toml").write_text("[server\nport = 1\n")


@pytest.mark.parametrize("change", [set_the_clock_back, save_a_slip])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_dead_worker_is_replaced_by_one_that_knows_what_the_others_know(
    adapter: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    with servers.serving(adapter, tmp_path / "home", workers=2) as element:
        victim, survivor = two_workers(element)
        change(element.home)
        with always_answers(element):
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in element.workers(), "the end of the victim")
            assert survivor in two_workers(element)
        log = element.log.read_text()
        assert "a worker cannot start" not in log
        assert ("The clock says" in log) == (change is set_the_clock_back)
        made = element.upload(b"kept")
        assert element.download(made["file_id"]).body == b"kept"
        element.process.send_signal(signal.SIGTERM)
        assert element.process.wait(servers.DEADLINE) == 0


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_worker_that_cannot_start_is_tried_again_and_the_other_serves(adapter: str, tmp_path: Path) -> None:
    with servers.serving(adapter, tmp_path / "home", workers=2) as element:
        victim, survivor = two_workers(element)
        public = element.home / "state" / "keys" / "public.pem"
        good = public.read_bytes()
        public.write_bytes(b"no key")
        with always_answers(element):
            os.kill(victim, signal.SIGKILL)
            until(lambda: element.log.read_text().count("a worker cannot start: ") >= 2, "two attempts")
            assert survivor in element.workers()
            public.write_bytes(good)
            two_workers(element)
        log = element.log.read_text()
        assert "public.pem" in log
        assert "Traceback" not in log
        element.process.send_signal(signal.SIGTERM)
        assert element.process.wait(servers.DEADLINE) == 0


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_workers_that_are_killed_within_seconds_of_their_start_are_replaced(
    adapter: str, tmp_path: Path
) -> None:
    with servers.serving(adapter, tmp_path / "home", workers=2) as element:
        _, survivor = two_workers(element)
        with always_answers(element):
            for _ in range(2):
                (victim,) = {*two_workers(element)} - {survivor}
                os.kill(victim, signal.SIGKILL)
                until(lambda: victim not in element.workers(), "the end of the victim")  # noqa: B023
        for pid in two_workers(element):  # at once
            os.kill(pid, signal.SIGKILL)
        two_workers(element)
        element.process.send_signal(signal.SIGTERM)
        assert element.process.wait(servers.DEADLINE) == 0


def test_an_element_of_which_no_worker_can_start_ends_with_its_reason(tmp_path: Path) -> None:
    """The recovery succeeds, so it is the start of the workers that fails."""
    (tmp_path / "sitecustomize.py").write_text(
        "import artstore_granian.worker as worker\n"
        "from artstore.errors import ConfigError\n"
        "def open_node(*_, **__):\n"
        "    raise ConfigError('Wrong.', place='here')\n"
        "worker.open_node = open_node\n"
    )
    run = servers.artstore(
        tmp_path / "home", "serve", "--port", str(free_port()), "--workers", "2", modules=tmp_path
    )
    assert run.returncode == 78, run
    assert "a worker cannot start: here: Wrong." in run.stderr
    assert "Traceback" not in run.stderr


SLOW_REAPER = """
import os, threading, time
waitpid = os.waitpid
def slow(pid, options):
    main = threading.current_thread() is threading.main_thread()
    time.sleep(0.05 * main)  # the other thread reaps the child
    try:
        return waitpid(pid, options)
    finally:
        time.sleep(0.3 * (not main))  # and is held up before it can say so
os.waitpid = slow
"""


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_clean_stop_kills_no_worker(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that watches a worker reaps it, and is held up while the one that stops it asks for it."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_REAPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with servers.serving(adapter, tmp_path / "home", workers=2) as element:
        two_workers(element)
        element.stop()
        assert "Killing" not in element.log.read_text()
