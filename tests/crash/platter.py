"""What a disk may hold after power loss, computed from a tape: every choice a file system is free to make.

Two kinds of disk, both after Pillai et al. (ALICE, OSDI 2014):

- `strict`: what POSIX promises and no more. fsync of a file makes its bytes durable and not its name; fsync of a
  directory makes the names in it durable. Every other change of a name is kept or lost by itself, in any order. A
  rename is kept whole, or with its old name still there as well; it loses both names only when the old directory
  alone was synced.
- `ordered`: a journal. Names are kept up to some point of time, none before the last fsync of anything, and a rename is
  kept or not.

On both, bytes that were not synced are there, missing, zeros, or torn at any place, each write by itself. What a failed
fsync was to make durable may be lost although a later one succeeds (Rebello et al., ATC 2020).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Image = dict[str, bytes | None]
"""A tree: path -> content, None for a directory."""
FEW = 48
"""Up to so many choices at one point are all tried."""
PIECES = ("kept", "lost", "zeros", "torn")


@dataclass(slots=True)
class Write:
    offset: int
    data: bytes | None
    """None: cut at `offset`."""
    doubtful: bool = False
    """An fsync that was to make it durable failed."""
    sure: bool = False
    """Durable, after others were doubtful."""


@dataclass(slots=True)
class File:
    durable: bytes = b""
    writes: list[Write] = field(default_factory=list)

    def sync(self, succeeded: bool) -> None:
        for write in self.writes:
            if succeeded and not write.doubtful:
                write.sure = True
            elif not succeeded and not write.sure:
                write.doubtful = True
        if not self.open():
            self.durable, self.writes = self.content(()), []

    def open(self) -> list[Write]:
        """The writes whose fate is not decided."""
        return [w for w in self.writes if not w.sure]

    def content(self, fates: Iterable[str], dice: random.Random | None = None) -> bytes:
        """The bytes when the open writes meet `fates`, kept where those end."""
        content = bytearray(self.durable)
        left = iter(fates)
        for write in self.writes:
            fate = "kept" if write.sure else next(left, "kept")
            if fate == "lost":
                continue
            if write.data is None:
                del content[write.offset :]
                content.extend(bytes(write.offset - len(content)))
                continue
            data = write.data
            if fate == "zeros":
                data = bytes(len(data))
            elif fate == "torn":
                at = len(data) // 2 if dice is None else _tear(len(data), dice)
                data = data[:at] if dice is None or dice.random() < 0.5 else data[:at].ljust(len(data), b"\0")
            if write.offset > len(content):
                content.extend(bytes(write.offset - len(content)))
            content[write.offset : write.offset + len(data)] = data
        return bytes(content)


def _tear(size: int, dice: random.Random) -> int:
    """Where a write is torn: at a sector, at a page, or anywhere."""
    grain = dice.choice([1, 512, 4096])
    return min(size, dice.randrange(size // grain + 1) * grain)


@dataclass(slots=True)
class Change:
    """One change of what a name means."""

    target: int | None
    step: int
    doubtful: bool = False
    needs: tuple[int, str] | None = None
    """The name that took over, of a rename: this loss of the old name is not kept without it."""


@dataclass(slots=True)
class Name:
    durable: int | None = None
    changes: list[Change] = field(default_factory=list)

    def now(self) -> int | None:
        return self.changes[-1].target if self.changes else self.durable


class Disk:
    """The state of a disk while a tape runs: what is durable, and what is under way."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[int, dict[str, Name]] = {0: {}}
        self.step = 0
        self.synced = 0
        """The step of the last fsync that succeeded."""
        self.history: list[tuple[int, int, str, int | None]] = []
        """(step, directory, name, target): names as they changed, for the ordered disk."""
        self._loaded: dict[tuple[int, str], int] = {}
        self._locks: set[int] = set()
        """Directories whose names are of no concern: lock files are created again, and hold nothing."""
        self._known: dict[int, int] = {}
        self._next = itertools.count(1)

    # --- before the tape ---

    def load(self, image: Image, inode: Any, root: int) -> None:
        """Begin with `image`, all of it durable; `inode` has the inode of each path, `root` that of the root."""
        self._known[root] = 0
        for path in sorted(image):
            content = image[path]
            number = next(self._next)
            self._known[inode(path)] = number
            parent, _, name = path.rpartition("/")
            here = self.at(parent)
            self.names[here][name] = Name(durable=number)
            self._loaded[here, name] = number
            if content is None:
                self._directory(number, name)
            else:
                self.files[number] = File(durable=content)

    def _directory(self, number: int, name: str) -> None:
        self.names[number] = {}
        if name == "locks":
            self._locks.add(number)

    def at(self, path: str) -> int:
        here = 0
        for part in path.split("/") if path else ():
            found = self.names[here][part].now()
            assert found is not None
            here = found
        return here

    # --- the tape ---

    def play(self, record: tuple[Any, ...]) -> bool:
        """One line of the tape; whether it changed anything here."""
        what, *rest = record
        self.step += 1
        if what in ("write", "truncate"):
            number = self._known.get(rest[0])
            if number is None:
                return False
            data = rest[2] if what == "write" else None
            self.files[number].writes.append(Write(rest[1], data))
            return True
        if what == "sync":
            return self._sync(*rest)
        directory = self._known.get(rest[0])
        if directory is None or directory not in self.names:
            return False
        name = rest[1]
        if what in ("create", "mkdir"):
            number = next(self._next)
            self._known[rest[2]] = number
            if what == "mkdir":
                self._directory(number, name)
            else:
                self.files[number] = File()
            self._set(directory, name, number)
        elif what == "unlink":
            self._set(directory, name, None)
        else:
            target, new = self._known[rest[2]], rest[3]
            moved = self.names[directory][name].now()
            self._set(target, new, moved)
            if what == "rename":
                self._set(directory, name, None, needs=(target, new))
        return True

    def _set(
        self, directory: int, name: str, target: int | None, needs: tuple[int, str] | None = None
    ) -> None:
        changed = self.names[directory].setdefault(name, Name())
        if directory in self._locks:
            changed.durable = target
            return
        changed.changes.append(Change(target, self.step, needs=needs))
        self.history.append((self.step, directory, name, target))

    def _sync(self, inode: int, succeeded: bool) -> bool:
        number = self._known.get(inode)
        if number is None:
            return False
        if number in self.files:
            self.files[number].sync(succeeded)
        for name in self.names.get(number, {}).values():
            if not succeeded:
                for change in name.changes:
                    change.doubtful = True
            elif name.changes and not name.changes[-1].doubtful:
                name.durable, name.changes = name.changes[-1].target, []
        if succeeded:
            self.synced = self.step
        return True

    # --- the cut ---

    def whole(self) -> Image:
        """Everything kept: what a reader sees."""
        return self._image({}, {})

    def _image(self, kept: dict[tuple[int, str], int | None], contents: dict[int, bytes]) -> Image:
        image: Image = {}

        def walk(directory: int, path: str) -> None:
            for text, name in self.names[directory].items():
                number = kept.get((directory, text), name.now()) if kept else name.now()
                if number is None:
                    continue
                below = f"{path}/{text}" if path else text
                if below in image:
                    continue
                if number in self.names:
                    image[below] = None
                    walk(number, below)
                else:
                    file = self.files[number]
                    image[below] = contents[number] if number in contents else file.content(())

        walk(0, "")
        return image

    def states(self, dice: random.Random, most: int) -> Iterator[tuple[str, Image]]:
        """What may be there after a cut now: all of it where that is little, else `most` samples, the worst first."""
        yield from self._strict(dice, most - most // 4)
        yield from self._ordered(dice, most // 4)

    def _open(self) -> tuple[list[tuple[int, str]], list[int]]:
        names = [(d, n) for d, under in self.names.items() for n, name in under.items() if name.changes]
        files = [number for number, file in self.files.items() if file.open()]
        return names, files

    def _strict(self, dice: random.Random, most: int) -> Iterator[tuple[str, Image]]:
        names, files = self._open()
        options = [range(len(self.names[d][n].changes) + 1) for d, n in names]
        fates = [list(itertools.product(PIECES, repeat=len(self.files[f].open()))) for f in files if
                 len(self.files[f].open()) == 1]  # fmt: skip
        size = 1
        for some in (*options, *fates):
            size *= len(some)
        small = len(fates) == len(files) and size <= min(FEW, most)
        if small:
            chosen: Iterator[tuple[Any, ...]] = itertools.product(*options, *fates)
            for pick in chosen:
                yield from self._pick(names, list(pick[: len(names)]), files, list(pick[len(names) :]), None)
            return
        leanings = itertools.cycle(["none", "all", "one lost", "one kept", "any", "most", "few"])
        for leaning in itertools.islice(leanings, most):
            picks, fate = self._lean(leaning, names, files, dice)
            yield from self._pick(names, picks, files, fate, dice)

    def _lean(
        self, leaning: str, names: list[tuple[int, str]], files: list[int], dice: random.Random
    ) -> tuple[list[int], list[tuple[str, ...]]]:
        last = [len(self.names[d][n].changes) for d, n in names]
        none = [0] * len(names)
        writes = [len(self.files[f].open()) for f in files]
        kept, lost = [("kept",) * n for n in writes], [("lost",) * n for n in writes]
        if leaning == "none":
            return none, lost
        if leaning == "all":
            # Names without their bytes: what an unsynced file looks like on most file systems.
            return last, dice.choice([kept, lost, [("zeros",) * n for n in writes]])
        if leaning in ("one lost", "one kept"):
            picks, fates = (list(last), list(kept)) if leaning == "one lost" else (none, lost)
            at = dice.randrange(len(names) + len(files)) if names or files else 0
            if at < len(names):
                picks[at] = dice.randrange(last[at]) if leaning == "one lost" else last[at]
            elif files:
                some = at - len(names)
                fates[some] = tuple(dice.choice(PIECES) for _ in fates[some])
            return picks, fates
        lean = {"any": 0.5, "most": 0.85, "few": 0.15}[leaning]
        picks = [n if dice.random() < lean else dice.randrange(n + 1) for n in last]
        fates = [
            tuple("kept" if dice.random() < lean else dice.choice(PIECES) for _ in range(n)) for n in writes
        ]
        return picks, fates

    def _pick(
        self,
        names: list[tuple[int, str]],
        picks: list[int],
        files: list[int],
        fates: list[tuple[str, ...]],
        dice: random.Random | None,
    ) -> Iterator[tuple[str, Image]]:
        upto = dict(zip(names, picks, strict=True))
        changed = True
        while changed:  # a rename that lost its old name keeps its new one
            changed = False
            for (d, n), k in upto.items():
                for change in self.names[d][n].changes[:k]:
                    other = change.needs
                    if other is None or other not in upto:
                        continue
                    there = self.names[other[0]][other[1]].changes
                    wanted = next((i + 1 for i, c in enumerate(there) if c.step == change.step), 0)
                    if upto[other] < wanted:
                        upto[other] = wanted
                        changed = True
        kept = {
            (d, n): self.names[d][n].changes[k - 1].target if k else self.names[d][n].durable
            for (d, n), k in upto.items()
        }
        contents = {f: self.files[f].content(list(fate), dice) for f, fate in zip(files, fates, strict=True)}
        yield "strict", self._image(kept, contents)

    def _ordered(self, dice: random.Random, most: int) -> Iterator[tuple[str, Image]]:
        if any(c.doubtful for under in self.names.values() for name in under.values() for c in name.changes):
            return  # what a journal does after a failed fsync is no order any more
        _, files = self._open()
        since = [h for h in self.history if h[0] > self.synced]
        for n in range(most):
            upto = dice.choice([self.synced, self.step]) if n < 2 else dice.randint(self.synced, self.step)
            kept: dict[tuple[int, str], int | None] = {}
            for step, directory, name, target in self.history:
                if step <= upto:
                    kept[directory, name] = target
            for _, directory, name, _ in since:
                kept.setdefault((directory, name), self._loaded.get((directory, name)))
            fates = [
                tuple(dice.choice(PIECES) for _ in self.files[f].open())
                if dice.random() < 0.7
                else ("kept",) * len(self.files[f].open())
                for f in files
            ]
            contents = {f: self.files[f].content(list(x), dice) for f, x in zip(files, fates, strict=True)}
            yield "ordered", self._image(kept, contents)
