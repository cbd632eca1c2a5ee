"""The four modes of an element, what each allows, and the transitions between them."""

from __future__ import annotations

from enum import StrEnum

from artstore.errors import Conflict, ModeNotAllowed


class Mode(StrEnum):
    """What the element allows: everything, all but deletion, reading, or attrs only."""

    EDIT = "edit"
    RW = "rw"
    RO = "ro"
    AR = "ar"


class Operation(StrEnum):
    """What a mode allows or forbids. `READ` reads attrs and searches; `DOWNLOAD` reads data."""

    UPLOAD = "upload"
    UPDATE = "update"
    DELETE = "delete"
    DOWNLOAD = "download"
    READ = "read"


ALLOWED: dict[Mode, frozenset[Operation]] = {
    Mode.EDIT: frozenset(Operation),
    Mode.RW: frozenset(Operation) - {Operation.DELETE},
    Mode.RO: frozenset({Operation.DOWNLOAD, Operation.READ}),
    Mode.AR: frozenset({Operation.READ}),
}

_FORWARD = {(Mode.RW, Mode.RO), (Mode.RO, Mode.AR)}
_BACK = {(Mode.RO, Mode.RW), (Mode.AR, Mode.RO)}


def require(mode: Mode, operation: Operation) -> None:
    """Raise `ModeNotAllowed` unless `mode` allows `operation`."""
    if operation not in ALLOWED[mode]:
        allowing = ", ".join(m.value for m in Mode if operation in ALLOWED[m])
        raise ModeNotAllowed(
            f"This element is in mode '{mode.value}', which does not allow {operation.value}; "
            f"modes that do: {allowing}."
        )


def allows_changes(mode: Mode) -> bool:
    """Return whether `mode` allows uploads or updates."""
    return not ALLOWED[mode].isdisjoint({Operation.UPLOAD, Operation.UPDATE})


def check_transition(current: Mode, target: Mode, *, confirm: bool) -> None:
    """Raise `Conflict` unless there is a transition from `current` to `target`. Backward ones need `confirm`."""
    step = (current, target)
    if step in _FORWARD or (step in _BACK and confirm):
        return
    if current is target:
        raise Conflict(f"This element is in mode '{current.value}' already.")
    if step in _BACK:
        raise Conflict(f"Going back from '{current.value}' to '{target.value}' needs \"confirm\": true.")
    if Mode.EDIT in step:
        raise Conflict("Mode 'edit' is closed: nothing leaves it and nothing enters it.")
    raise Conflict(
        f"There is no way from '{current.value}' to '{target.value}'; the steps are rw -> ro -> ar."
    )
