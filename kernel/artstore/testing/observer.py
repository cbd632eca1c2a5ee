"""What every observer must do: subclass `ObserverSuite`, override `observer`.

Override `noted` where a test can see what the observer does with a change, and `reopen` where what it noted outlives
the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from artstore.attr import Attr
from artstore.errors import StorageFull, Unavailable
from artstore.ids import FileId
from artstore.spi import API, Change, Observer
from artstore.testing.attrs import make_attr
from artstore.testing.power import failing

Noted = Callable[[], list[tuple[Change, FileId]]]


def deliver(observer: Observer, change: Change = "upload", attr: Attr | None = None) -> tuple[Change, FileId]:
    """Deliver a change to `observer`, and return what a test should find noted."""
    attr = attr or make_attr()
    observer.committed(change, attr.file_id, attr.key, attr)
    return change, attr.file_id


def _by_file(changes: list[tuple[Change, FileId]]) -> dict[FileId, list[Change]]:
    """Return the changes of each file, in order, without repetitions."""
    found: dict[FileId, list[Change]] = {}
    for change, file_id in dict.fromkeys(changes):
        found.setdefault(file_id, []).append(change)
    return found


class ObserverSuite:
    """The promises of `artstore.spi.Observer`."""

    patience: ClassVar[float] = 10.0
    """Seconds after which a change has an effect that a test can see."""

    @pytest.fixture
    def observer(self) -> Observer:
        """The observer under test; the fixture closes it."""
        raise NotImplementedError("override this fixture: return the observer under test")

    @pytest.fixture
    def noted(self) -> Noted | None:
        """Return the changes that had an effect, each as often as it had one; None where a test cannot see it."""
        return None

    @pytest.fixture
    def reopen(self) -> Callable[[], Observer] | None:
        """End `observer` as death would, and open it again; None for an observer that keeps nothing."""
        return None

    def assert_noted(self, noted: Noted | None, expected: list[tuple[Change, FileId]]) -> None:
        """Fail unless exactly the expected changes were noted, each at least once, and those of one file in order."""
        if noted is None:
            return
        deadline = time.monotonic() + self.patience
        while (found := _by_file(noted())) != _by_file(expected) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found == _by_file(expected)

    def test_it_names_its_contract_and_refuses_unknown_settings(self, observer: Observer) -> None:
        assert observer.API == API
        with pytest.raises(ValidationError):
            observer.Settings.model_validate({"no_such_setting": 1})

    def test_the_changes_of_a_file_are_noted_in_order(self, observer: Observer, noted: Noted | None) -> None:
        attr, other = make_attr(), make_attr(original_filename="отчёт за год.pdf", metadata={"a": [1, None]})
        expected = [
            deliver(observer, "upload", attr),
            deliver(observer, "upload", other),
            deliver(observer, "update", attr.model_copy(update={"revision": 2})),
            deliver(observer, "delete", attr.model_copy(update={"revision": 2})),
        ]
        observer.flush()
        self.assert_noted(noted, expected)

    def test_a_deletion_after_a_crash_has_no_attr(self, observer: Observer, noted: Noted | None) -> None:
        attr = make_attr()
        observer.committed("delete", attr.file_id, attr.key, None)
        observer.flush()
        self.assert_noted(noted, [("delete", attr.file_id)])

    def test_a_change_may_be_delivered_again(self, observer: Observer, noted: Noted | None) -> None:
        first, second = make_attr(), make_attr()
        expected = [deliver(observer, "upload", first)]
        deliver(observer, "upload", first)
        observer.flush()
        deliver(observer, "upload", first)
        expected.append(deliver(observer, "upload", second))
        observer.flush()
        self.assert_noted(noted, expected)

    def test_many_changes_are_noted(self, observer: Observer, noted: Noted | None) -> None:
        expected = [deliver(observer) for _ in range(50)]
        observer.flush()
        self.assert_noted(noted, expected)

    def test_flush_can_be_called_when_there_is_nothing_to_do(self, observer: Observer) -> None:
        observer.flush()
        deliver(observer)
        observer.flush()
        observer.flush()

    @pytest.mark.parametrize("call", range(1, 9))
    def test_a_change_that_could_not_be_noted_can_be_delivered_again(
        self, observer: Observer, noted: Noted | None, tmp_path: Path, call: int
    ) -> None:
        attr = make_attr()
        with failing(call, tmp_path), suppress(StorageFull, Unavailable):
            deliver(observer, "upload", attr)
            observer.flush()
        expected = [deliver(observer, "upload", attr)]
        observer.flush()
        self.assert_noted(noted, expected)

    def test_what_was_flushed_outlives_the_process(
        self, observer: Observer, reopen: Callable[[], Observer] | None, noted: Noted | None
    ) -> None:
        if reopen is None:
            return
        expected = [deliver(observer) for _ in range(3)]
        observer.flush()
        reopen()
        self.assert_noted(noted, expected)

    def test_close_can_be_called_twice(self, observer: Observer) -> None:
        deliver(observer)
        observer.close()
        observer.close()
