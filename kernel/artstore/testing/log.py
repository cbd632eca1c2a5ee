"""What every log must do: subclass `LogSuite` and override `open_log`.

For a log that is a `Coordination` as well, subclass `SharedLogSuite`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import pytest
from pydantic import ValidationError

from artstore.errors import Conflict
from artstore.ids import FileId, Key
from artstore.spi import API, AbandonedLog, Coordination, Intent, Log


def file_id(n: int) -> FileId:
    """Return the n-th id."""
    return FileId(f"0194567e-8c3a-7d21-b5f0-{n:012x}")


def key(n: int) -> Key:
    """Return the key of the n-th file."""
    return Key(f"2025/01/11/15/report_ivanov_20250111T153045_{n:08x}.pdf")


def begin(log: Log, n: int, operation: str = "upload") -> Intent:
    """Open an intent for the n-th file."""
    return log.begin(operation, by="ivanov", file_id=file_id(n), key=key(n))


def statuses(log: Log) -> dict[FileId | None, str]:
    """Return the status of each transaction by its file id."""
    return {t.file_id: t.status for t in log.transactions(limit=10_000)}


def pending(left: list[AbandonedLog]) -> set[FileId | None]:
    """Return the file ids of the intents that dead processes left open."""
    return {t.file_id for part in left for t in part.pending}


def uncheckpointed(left: list[AbandonedLog]) -> set[FileId | None]:
    """Return the file ids of the intents of dead processes that are perhaps not in the cache."""
    return {t.file_id for part in left for t in part.uncheckpointed}


def recover(left: list[AbandonedLog]) -> None:
    """Roll back every intent that dead processes left open, and close what they left."""
    for part in left:
        for t in part.pending:
            part.end(t, "rolled_back", "the process died")
        part.close()
        part.release()


class SharedLog(Log, Coordination, Protocol):
    """A log that coordinates the nodes that share it."""


class LogSuite:
    """The promises of `artstore.spi.Log`, `Intent` and `AbandonedLog`."""

    patience: ClassVar[float] = 0.0
    """Seconds after which `abandoned` yields at the latest what a closed log left."""

    @pytest.fixture
    def open_log(self) -> Callable[[], Log]:
        """Open the log of one element; each call opens it as another process would. The fixture closes them all."""
        raise NotImplementedError("override this fixture: return a function that opens the log under test")

    @pytest.fixture
    def log(self, open_log: Callable[[], Log]) -> Log:
        return open_log()

    def abandoned(self, log: Log) -> list[AbandonedLog]:
        """Return what dead processes left, perhaps several parts each. Waits until there is something."""
        deadline = time.monotonic() + self.patience
        while not (found := list(log.abandoned())) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found
        return found

    # --- what it declares ---

    def test_it_names_its_contract_and_refuses_unknown_settings(self, log: Log) -> None:
        assert log.API == API
        with pytest.raises(ValidationError):
            log.Settings.model_validate({"no_such_setting": 1})

    # --- intents ---

    def test_each_end_is_recorded(self, log: Log) -> None:
        begin(log, 1).commit()
        begin(log, 2).roll_back("the client went away")
        log.begin("update", by="petrov", file_id=file_id(3), key=key(3), revision=2).end_in_doubt("x" * 9999)
        log.begin("mode", by="petrov", key=Key("ro"))
        found = {t.file_id: t for t in log.transactions()}
        assert {i: t.status for i, t in found.items()} == {
            file_id(1): "committed", file_id(2): "rolled_back", file_id(3): "failed", None: "pending",
        }  # fmt: skip
        assert (found[file_id(1)].error, found[file_id(2)].error) == (None, "the client went away")
        error = found[file_id(3)].error
        assert error
        assert error.startswith("x" * 100), "at least the beginning of an error is kept"
        update = found[file_id(3)]
        assert (update.operation, update.by, update.key, update.revision) == ("update", "petrov", key(3), 2)
        assert found[file_id(1)].started <= str(found[file_id(1)].finished)
        assert found[None].finished is None
        assert found[None].key == "ro"

    def test_an_intent_can_be_made_durable_more_than_once(self, log: Log) -> None:
        intent = begin(log, 1, "update")
        intent.sync()
        intent.sync()
        intent.commit()
        assert statuses(log) == {file_id(1): "committed"}

    def test_transactions_are_listed_newest_first_in_pages(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        for n in range(25):
            begin(one if n % 2 else two, n).commit()
        everything = one.transactions(limit=1000)
        assert len(everything) == 25
        assert [t.id for t in everything] == sorted((t.id for t in everything), reverse=True)
        for limit in (1, 7, 25):
            seen: list[str] = []
            while page := two.transactions(limit=limit, before=seen[-1] if seen else None):
                assert len(page) <= limit
                seen += [t.id for t in page]
            assert seen == [t.id for t in everything]
        assert one.transactions(status="pending") == []
        assert len(one.transactions(status="committed", limit=3)) == 3
        assert one.transactions(limit=0) == []

    def test_intents_of_many_threads_do_not_disturb_each_other(self, log: Log) -> None:
        def write(thread: int) -> None:
            for n in range(25):
                begin(log, 100 * thread + n).commit()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        found = statuses(log)
        assert len(found) == 100
        assert set(found.values()) == {"committed"}

    def test_a_checkpoint_beside_writers_loses_no_intent(self, log: Log) -> None:
        done = threading.Event()

        def write(thread: int) -> None:
            for n in range(25):
                begin(log, 100 * thread + n).commit()

        def checkpoint() -> None:
            while not done.is_set():
                log.checkpoint(log.position())

        with ThreadPoolExecutor(3) as pool:
            checkpoints = pool.submit(checkpoint)
            writers = [pool.submit(write, thread) for thread in range(2)]
            try:
                for writer in writers:
                    writer.result()
            finally:
                done.set()
            checkpoints.result()
        found = statuses(log)
        assert len(found) == 50
        assert set(found.values()) == {"committed"}

    def test_it_is_ready(self, log: Log) -> None:
        log.check()

    # --- what a process leaves ---

    def test_what_a_live_process_has_open_is_its_own(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        intent = begin(one, 1)
        begin(two, 2)
        assert list(one.abandoned()) == []
        assert list(two.abandoned()) == []
        assert {t.file_id for t in one.transactions(status="pending")} == {file_id(1), file_id(2)}
        intent.sync()
        intent.commit()
        assert statuses(two)[file_id(1)] == "committed"

    def test_a_closed_log_leaves_to_recovery_what_is_open_and_what_is_not_checkpointed(
        self, open_log: Callable[[], Log]
    ) -> None:
        one, two = open_log(), open_log()
        begin(one, 1).commit()
        one.checkpoint(one.position())
        begin(one, 2)
        begin(one, 3).roll_back("the client went away")
        one.close()
        left = self.abandoned(two)
        assert pending(left) == {file_id(2)}
        assert uncheckpointed(left) == {file_id(3)}
        for part in left:
            part.release()

    def test_a_log_that_is_checkpointed_leaves_nothing(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        begin(one, 1).commit()
        one.checkpoint(one.position())
        one.close()
        assert list(two.abandoned()) == []
        assert statuses(two) == {file_id(1): "committed"}

    def test_what_ended_after_the_position_is_not_checkpointed(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        late = begin(one, 0)
        begin(one, 1).commit()
        position = one.position()
        late.commit()
        begin(one, 2).commit()
        one.checkpoint(position)
        one.close()
        left = self.abandoned(two)
        assert uncheckpointed(left) == {file_id(0), file_id(2)}
        for part in left:
            part.close()

    def test_what_recovery_releases_is_found_again(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        begin(one, 1)
        one.close()
        for _ in range(2):
            left = self.abandoned(two)
            assert pending(left) == {file_id(1)}
            for part in left:
                part.release()

    def test_what_recovery_closes_is_gone(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        begin(one, 1)
        begin(one, 2).commit()
        one.close()
        recover(self.abandoned(two))
        assert list(two.abandoned()) == []
        found = {t.file_id: (t.status, t.error) for t in two.transactions()}
        assert found == {
            file_id(1): ("rolled_back", "the process died"),
            file_id(2): ("committed", None),
        }

    def test_a_process_cannot_end_what_recovery_ended(self, open_log: Callable[[], Log]) -> None:
        one, two = open_log(), open_log()
        intent = begin(one, 1)
        one.close()
        recover(self.abandoned(two))
        intent.commit()
        assert statuses(two) == {file_id(1): "rolled_back"}

    def test_close_can_be_called_twice(self, log: Log) -> None:
        begin(log, 1).commit()
        log.close()
        log.close()


class SharedLogSuite(LogSuite):
    """The promises of `Coordination` too, for a log that several nodes share."""

    def test_a_lock_is_held_by_one_node(self, open_log: Callable[[], SharedLog]) -> None:
        one, two = open_log(), open_log()
        with one.exclusive("recovery"):
            with pytest.raises(Conflict), two.exclusive("recovery", wait=False):
                pass
            with two.exclusive("another", wait=False):
                pass
        with two.exclusive("recovery"):
            pass

    def test_who_waits_for_a_lock_gets_it(self, open_log: Callable[[], SharedLog]) -> None:
        one, two = open_log(), open_log()
        entered = threading.Event()

        def enter() -> None:
            with two.exclusive("recovery"):
                entered.set()

        with ThreadPoolExecutor(1) as pool:
            with one.exclusive("recovery"):
                waiting = pool.submit(enter)
                assert not entered.wait(0.3)
            waiting.result(60)

    def test_a_lock_is_held_by_one_thread(self, open_log: Callable[[], SharedLog]) -> None:
        log, inside, most = open_log(), 0, 0

        def enter(_: int) -> None:
            nonlocal inside, most
            with log.exclusive("file 1"):
                inside += 1
                most = max(most, inside)
                inside -= 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(enter, range(40)))
        assert most == 1

    def test_a_node_that_is_dirty_is_so_until_it_has_written_all(
        self, open_log: Callable[[], SharedLog]
    ) -> None:
        one, two = open_log(), open_log()
        assert not two.any_dirty()
        one.set_dirty()
        position = one.position()
        assert one.any_dirty()
        assert two.any_dirty()
        one.set_dirty()
        one.clear_dirty(position)
        assert two.any_dirty(), "the second was set after the position"
        one.clear_dirty(one.position())
        assert not one.any_dirty()
        assert not two.any_dirty()
        two.clear_dirty(two.position())  # of a process that set nothing

    def test_what_a_dead_process_did_not_write_counts_until_recovery(
        self, open_log: Callable[[], SharedLog]
    ) -> None:
        one, two = open_log(), open_log()
        begin(one, 1)
        one.set_dirty()
        one.close()
        for part in self.abandoned(two):
            part.close()
        assert two.any_dirty(), "an intent is still open"
        recover(self.abandoned(two))
        assert not two.any_dirty()

    def test_the_open_uploads_of_other_processes_are_known(self, open_log: Callable[[], SharedLog]) -> None:
        one, two = open_log(), open_log()
        intent = begin(one, 1)
        begin(one, 2)
        begin(one, 1, "update")
        assert list(two.open_uploads(file_id(1))) == [key(1)]
        assert list(one.open_uploads(file_id(1))) == []
        intent.commit()
        assert list(two.open_uploads(file_id(1))) == []
