"""What an element said it did, and what may be there after power loss because of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Facts = dict[str, Any]
"""Fields of a sidecar, some or all."""


@dataclass(slots=True)
class Fate:
    """What may become of one file: any of `versions`, or nothing where it `may_be_gone`."""

    versions: list[Facts] = field(default_factory=list)
    may_be_gone: bool = True
    acknowledged: bool = False


@dataclass(slots=True)
class Ledger:
    """The answers so far. An operation is asked for, then either said to be done or to have failed."""

    files: dict[str, Fate] = field(default_factory=dict)
    modes: set[str] = field(default_factory=lambda: {"edit"})
    asked: dict[Any, tuple[str, str, Facts]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    """Where files lay that were acknowledged at any time."""
    damaged: dict[str, str] = field(default_factory=dict)
    """id -> key of files that another program broke: recovery must move them to quarantine, not drop them."""
    wrong: list[str] = field(default_factory=list)
    """What must not have been said, whatever the disk holds."""
    _said: dict[tuple[str, int], Facts] = field(default_factory=dict)

    @classmethod
    def of(cls, files: dict[str, Facts], mode: str = "edit") -> Ledger:
        fates = {i: Fate([attr], may_be_gone=False, acknowledged=True) for i, attr in files.items()}
        keys = {f"{attr['storage_path']}/{attr['storage_filename']}" for attr in files.values()}
        return cls(files=fates, modes={mode}, keys=keys)

    def play(self, what: str, token: Any, *rest: Any) -> None:
        """One line of the tape: `ask`, `done` or `failed`; or what went wrong before."""
        if what == "ask":
            self._ask(token, *rest)
        elif what == "promise":
            self.wrong.append(token)
        elif what == "takes":
            self.keys.discard(token)  # of a deleted file: now of an upload under way
        elif what == "damage":
            attr = self.files.pop(token).versions[0]
            self.damaged[token] = f"{attr['storage_path']}/{attr['storage_filename']}"
            self.keys.discard(self.damaged[token])
        elif what == "done":
            self._done(*self.asked.pop(token), *rest)
        else:
            self._failed(*self.asked.pop(token), *rest)

    def _ask(self, token: Any, op: str, file_id: str, facts: Facts) -> None:
        self.asked[token] = op, file_id, facts
        if op == "mode":
            self.modes.add(file_id)
            return
        fate = self.files.setdefault(file_id, Fate())
        if op == "delete":
            fate.may_be_gone = True
        elif op == "upload" and fate.acknowledged:
            pass  # a retry: it is there already
        else:
            fate.versions.append(facts)

    def _done(self, op: str, file_id: str, facts: Facts, attr: Facts | None) -> None:
        if op == "mode":
            self.modes = {file_id}
            return
        fate = self.files[file_id]
        if op == "delete":
            fate.versions, fate.may_be_gone, fate.acknowledged = [], True, False
            self.deleted.add(file_id)
        else:
            assert attr is not None
            before = self._said.setdefault((file_id, attr["revision"]), attr)
            if before != attr and before["uploaded_at"] == attr["uploaded_at"]:
                self.wrong.append(f"two changes of {file_id} were both said to be the next: {before}, {attr}")
            # An older failed change is overwritten by this one; what is still under way may come on top.
            pending = [f for o, i, f in self.asked.values() if i == file_id and o == "update"]
            going = any(o == "delete" and i == file_id for o, i, _ in self.asked.values())
            fate.versions, fate.may_be_gone, fate.acknowledged = [attr, *pending], going, True
            self.deleted.discard(file_id)
            self.keys.add(f"{attr['storage_path']}/{attr['storage_filename']}")

    def _failed(self, op: str, file_id: str, facts: Facts, certain: bool) -> None:
        """`certain`: refused, and nothing of it may be there."""
        if not certain:
            return
        if op == "mode":
            self.modes.discard(file_id)
        elif op == "delete":
            self.files[file_id].may_be_gone = False
        elif facts in self.files[file_id].versions:
            self.files[file_id].versions.remove(facts)

    def judge(self, there: dict[str, Facts]) -> list[str]:
        """What is wrong with a store that holds `there`: id -> sidecar."""
        wrong = list(self.wrong)
        for file_id, attr in there.items():
            fate = self.files.get(file_id)
            if fate is None:
                wrong.append(f"{file_id} was never asked for: {attr}")
            elif not any(facts.items() <= attr.items() for facts in fate.versions):
                kind = "came back after its deletion" if file_id in self.deleted else "is not what was said"
                wrong.append(f"{file_id} {kind}: {attr}; expected one of {fate.versions}")
        for file_id, fate in self.files.items():
            if file_id not in there and not fate.may_be_gone:
                wrong.append(f"{file_id} is lost; expected one of {fate.versions}")
        return wrong
