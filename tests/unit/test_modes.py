"""The table of modes, written out once more and independently."""

from __future__ import annotations

import pytest

from artstore.errors import Conflict, ModeNotAllowed
from artstore.modes import Mode, Operation, check_transition, require

TABLE = {
    "edit": "upload update delete download read",
    "rw": "upload update download read",
    "ro": "download read",
    "ar": "read",
}
WITHOUT_CONFIRM = {("rw", "ro"), ("ro", "ar")}
WITH_CONFIRM = WITHOUT_CONFIRM | {("ro", "rw"), ("ar", "ro")}


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("operation", Operation)
def test_what_each_mode_allows(mode: Mode, operation: Operation) -> None:
    if operation.value in TABLE[mode.value].split():
        require(mode, operation)
    else:
        with pytest.raises(ModeNotAllowed) as refused:
            require(mode, operation)
        able = refused.value.detail.rpartition("modes that do: ")[2].rstrip(".").split(", ")
        assert able == [m for m, operations in TABLE.items() if operation.value in operations.split()]


@pytest.mark.parametrize("current", Mode)
@pytest.mark.parametrize("target", Mode)
@pytest.mark.parametrize("confirm", [False, True])
def test_the_ways_between_modes(current: Mode, target: Mode, confirm: bool) -> None:
    if (current.value, target.value) in (WITH_CONFIRM if confirm else WITHOUT_CONFIRM):
        check_transition(current, target, confirm=confirm)
    else:
        with pytest.raises(Conflict):
            check_transition(current, target, confirm=confirm)


def test_going_back_says_that_it_needs_confirmation() -> None:
    with pytest.raises(Conflict, match="confirm"):
        check_transition(Mode.AR, Mode.RO, confirm=False)
