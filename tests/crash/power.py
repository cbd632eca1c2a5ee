"""Cuts the power at every point of a recorded workload, opens what a disk may have kept, and looks at it.

python -m crash.power <seconds> <seed> [workload...]      the long run: prints counts, and violations whole
"""

from __future__ import annotations

import gc
import json
import logging
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from artstore.attr import Attr
from artstore.errors import NotFound
from artstore.spi import Query
from crash.ledger import Ledger
from crash.planted import BUGS, with_bug
from crash.platter import Disk, Image
from crash.stage import (
    CLOCK,
    Base,
    Recording,
    Rows,
    RowsCache,
    open_node,
    prepare,
    put_cache,
    record,
    write_tree,
)
from crash.workloads import WORKLOADS, Workload
from support.audit import audit, open_intents, quarantined

SHM = Path("/dev/shm")
Snapshot = tuple[bytes, bytes]
OPERATIONS = ("create", "mkdir", "write", "truncate", "rename", "link", "unlink", "sync")


@dataclass(slots=True)
class State:
    """What a disk may hold after a cut, and what had been said before it."""

    cut: int
    disk: str
    image: Image
    cache: str
    rows: Rows | None
    files: Snapshot | None
    ledger: Ledger
    clock: float
    """Hours that the clock was ahead, at most."""
    rows_said: str = ""

    def fingerprint(self) -> int:
        """What is equal in two states that no opening and no check can distinguish."""
        said = repr((self.cache, self.ledger.modes, sorted(self.ledger.files), [*self.ledger.files.values()]))
        return hash((said, self.rows_said, self.files, frozenset(self.image.items())))


@dataclass
class Tally:
    """What was tried, and what was found."""

    states: int = 0
    lines: int = 0
    """Of the tape."""
    broken_pairs: int = 0
    """Parts of uploads that were never acknowledged, in quarantine: only where names are lost without order."""
    violations: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


def base_of(load: Workload, place: Path) -> Base:
    if load is WORKLOADS["first_start"]:
        return Base({}, (b"", b""), [])
    return prepare(place / "base", load.ages, load.mode, load.chosen)


def loaded(recording: Recording) -> Disk:
    disk = Disk()
    disk.load(recording.base.image, recording.inodes.__getitem__, recording.root)
    return disk


def states(recording: Recording, dice: random.Random, a_cut: int, cuts: int) -> Iterator[State]:
    """States of about `cuts` points of the tape, at most `a_cut` of each."""
    changing = [n for n, line in enumerate(recording.lines) if line[0] not in ("power", "idle")]
    first = next(n for n, line in enumerate(recording.lines) if line[0] == "power")
    candidates = [n for n in changing if n >= first]
    # An answer just given is what there is to lose.
    answers = [n for n in candidates if recording.lines[n][0] == "done"]
    others = [n for n in candidates if recording.lines[n][0] in OPERATIONS]
    wanted = {
        *answers[:cuts],
        *(others if len(others) <= cuts else dice.sample(others, cuts)),
        candidates[-1],
    }
    disk = loaded(recording)
    base = recording.base
    ledger = Ledger.of({attr["file_id"]: attr for attr in base.files}, base.mode)
    caches: list[Snapshot] = [base.cache]
    clock = 0.0
    for n, line in enumerate(recording.lines):
        if line[0] in ("ask", "done", "failed", "promise", "damage", "takes"):
            ledger.play(*line)
        elif line[0] == "cache":
            caches.append(line[1])
        elif line[0] == "cache synced":
            caches = [line[1]]
        elif line[0] == "clock":
            clock = max(clock, line[1])
        elif line[0] in OPERATIONS:
            disk.play(line)
        if n in wanted:
            for kind, image in disk.states(dice, a_cut):
                yield _with_cache(State(n, kind, image, "", None, None, ledger, clock), caches, dice)


def _with_cache(state: State, caches: list[Snapshot], dice: random.Random) -> State:
    """The cache as the disk may have it: of any commit since it was last synced, torn, broken, or not there."""
    pick = dice.random()
    snapshot = dice.choice([caches[0], caches[-1], dice.choice(caches)])
    if "home/state" not in state.image or pick < 0.04:
        state.cache = "no state"
        for path in [p for p in state.image if p.startswith("home/state")]:
            del state.image[path]
    elif pick < 0.12:
        state.cache = "none"
    elif pick < 0.15:
        state.cache, (database, wal) = "broken", snapshot
        database = (
            database[: dice.randrange(len(database) + 1)] if dice.random() < 0.5 else b"\0" * len(database)
        )
        state.files = database, wal
    elif pick < 0.22:
        # Bytes beyond the last sync may be torn off: SQLite's own sums find that out.
        synced = caches[0][1] if snapshot[1].startswith(caches[0][1]) else b""
        state.cache, whole = "sqlite", snapshot[1]
        state.files = snapshot[0], whole[: dice.randint(len(synced), len(whole))]
    else:
        state.cache, (state.rows, state.rows_said) = "rows", _rows(snapshot)
    return state


_ROWS: dict[Snapshot, tuple[Rows, str]] = {}


def _rows(snapshot: Snapshot) -> tuple[Rows, str]:
    """The rows and the stamp in a copy of the database; and the same as text."""
    if snapshot not in _ROWS:
        with tempfile.TemporaryDirectory(dir=SHM) as place:
            path = Path(place) / "cache.db"
            path.write_bytes(snapshot[0])
            Path(f"{path}-wal").write_bytes(snapshot[1])
            with closing(sqlite3.connect(path)) as connection:
                try:
                    texts = [text for (text,) in connection.execute("SELECT attr FROM files")]
                    stamp = connection.execute("SELECT value FROM meta WHERE name = 'stamp'").fetchone()
                except sqlite3.OperationalError:  # not made yet
                    texts, stamp = [], None
        attrs = [Attr.model_validate_json(text) for text in texts]
        rows = {attr.file_id: attr for attr in attrs}, stamp[0] if stamp else None
        _ROWS[snapshot] = rows, repr((sorted(rows[0].items()), rows[1]))
    return _ROWS[snapshot]


# --- judgement --------------------------------------------------------------------------------------------


def judge(state: State, home: Path, mode: str, tally: Tally) -> list[str]:
    """Open what the disk kept, twice, and compare it with what was said."""
    home.parent.mkdir()
    CLOCK.ahead = timedelta(hours=state.clock)
    try:
        write_tree(home.parent, state.image)
        if state.rows is not None:
            RowsCache.kept[home] = state.rows
        if state.files is not None:
            put_cache(home, state.files)
        return list(_faults(state, home, mode, tally))
    finally:
        CLOCK.ahead = timedelta(0)
        RowsCache.kept.pop(home, None)
        shutil.rmtree(home.parent)


def _faults(state: State, home: Path, mode: str, tally: Tally) -> Iterator[str]:
    ledger = state.ledger
    cache = "sql" if state.files is not None else "rows"
    try:
        first, report = look(home, cache, mode, ledger)
        parts = quarantined(home)
        there = audit(home, quarantine=state.disk == "strict" or bool(ledger.damaged))
    except Exception as e:
        yield f"{type(e).__name__}: {e}"
        return
    if len(parts) > len(ledger.damaged):
        tally.broken_pairs += 1
        if state.disk == "ordered":
            yield f"in quarantine: {parts}"
    yield from (f"{p} of an acknowledged file is in quarantine" for p in parts if _key(p) in ledger.keys)
    yield from ledger.judge(there)
    yield from (
        f"the damaged {k} was dropped" for k in ledger.damaged.values() if f"{k}.attr.json" not in parts
    )
    if first["files"] != there:
        yield f"the cache says {first['files']}, the tree {there}"
    if first["by id"] != there:
        yield f"by id {first['by id']}, in the tree {there}"
    if first["totals"] != (len(there), sum(attr["size"] for attr in there.values())):
        yield f"totals {first['totals']}"
    if first["mode"] not in ledger.modes:
        yield f"the mode is {first['mode']}, not one of {ledger.modes}"
    if intents := open_intents(home):
        yield f"open intents: {intents}"
    try:
        second, again = look(home, cache, mode, ledger)
    except Exception as e:
        yield f"opened again: {type(e).__name__}: {e}"
        return
    if second != first:
        yield f"opened again it says {second}, not {first}"
    if again != "nothing to do":
        yield f"opened again there was more to do: {again}; first: {report}"


def _key(path: str) -> str:
    return path.partition("~")[0].removesuffix(".attr.json")


def look(home: Path, cache: str, mode: str, ledger: Ledger) -> tuple[dict[str, Any], str]:
    """Open, ask for everything, close: the answers, and what recovery reported."""
    node = open_node(home, cache, mode)
    try:
        kernel = node.kernel
        found = kernel.search(Query(limit=1000)).items
        by_id = {}
        for file_id in {*ledger.files, *(attr.file_id for attr in found)}:
            try:
                by_id[file_id] = json.loads(kernel.attr(file_id).encode())
            except NotFound:
                continue
        answers = {
            "files": {attr.file_id: json.loads(attr.encode()) for attr in found},
            "by id": by_id,
            "totals": tuple(kernel.parts.cache.totals()),
            "mode": kernel.parts.element.record().mode.value,
        }
        return answers, str(node.report)
    finally:
        node.close()


def faithful(recording: Recording) -> None:
    """The tape has all that happened: played to its end it gives the tree that was there. So do all faults."""
    idle = [fault for line in recording.lines if line[0] == "idle" for fault in line[1]]
    assert not idle, f"what was to go wrong did not: {idle}"
    disk = loaded(recording)
    for line in recording.lines:
        if line[0] in OPERATIONS:
            disk.play(line)
    played = disk.whole()
    assert played.keys() == recording.end.keys(), played.keys() ^ recording.end.keys()
    assert played == recording.end, [p for p in played if played[p] != recording.end[p]]


def visible(recording: Recording) -> Iterator[str]:
    """What a reader finds while the workload runs: no sidecar in place without its data, whole.

    Pairs that the workload itself tore apart before power could fail are left out: recovery mends them before any
    reader comes.
    """
    disk = loaded(recording)
    torn: set[str] = set()
    for n, line in enumerate(recording.lines):
        if line[0] == "power":
            image = disk.whole()
            torn = {
                p for p in image if p.endswith(".attr.json") and p.removesuffix(".attr.json") not in image
            }
        if line[0] != "rename":
            if line[0] in OPERATIONS:
                disk.play(line)
            continue
        disk.play(line)
        if not str(line[4]).endswith(".attr.json"):
            continue
        image = disk.whole()
        for path, content in image.items():
            if path.startswith("home/files/2") and path.endswith(".attr.json") and content is not None:
                if path in torn:
                    continue
                data = image.get(path.removesuffix(".attr.json"))
                if data is None or _size(content) != len(data):
                    yield f"line {n}: a reader finds {path} without its data"


def _size(sidecar: bytes) -> int:
    try:
        return int(json.loads(sidecar)["size"])
    except ValueError:
        return -1


def replay(
    name: str, recording: Recording, dice: random.Random, *, a_cut: int, cuts: int, tally: Tally, place: Path
) -> Iterator[str]:
    """Judge the states of one recording; yields each violation."""
    for state in states(recording, dice, a_cut, cuts):
        fingerprint = state.fingerprint()
        if fingerprint in tally.seen:
            continue
        tally.seen.add(fingerprint)
        tally.states += 1
        for fault in judge(state, place / "cut" / "home", recording.base.mode, tally):
            line = recording.lines[state.cut]
            yield f"{name}, cut after line {state.cut} {line[:4]!r} ({state.disk}, cache {state.cache}): {fault}"


def recorded(name: str, place: Path) -> Recording:
    """One workload, run and written down."""
    return record(WORKLOADS[name].run, base_of(WORKLOADS[name], place), place)


def run(name: str, seed: int, *, a_cut: int, cuts: int, tally: Tally | None = None) -> Tally:
    """Record one workload and judge what power loss may make of it."""
    tally = Tally() if tally is None else tally
    with tempfile.TemporaryDirectory(prefix="artstore-power-", dir=SHM if SHM.is_dir() else None) as work:
        recording = recorded(name, Path(work))
        faithful(recording)
        tally.lines = len(recording.lines)
        tally.violations += faults(
            name, recording, seed, a_cut=a_cut, cuts=cuts, tally=tally, place=Path(work)
        )
    return tally


def search(name: str, seed: int) -> Tally:
    """Judge one workload until the first violation."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="artstore-power-", dir=SHM if SHM.is_dir() else None) as work:
        recording = recorded(name, Path(work))
        for more, (a_cut, cuts) in enumerate([(2, 40), (4, 80), (8, 80), (12, 200)]):
            found = faults(
                name, recording, seed + more, a_cut=a_cut, cuts=cuts, tally=tally, place=Path(work)
            )
            if first := next(found, None):
                tally.violations.append(first)
                break
    return tally


def faults(
    name: str, recording: Recording, seed: int, *, a_cut: int, cuts: int, tally: Tally, place: Path
) -> Iterator[str]:
    dice = random.Random(f"{name} {seed}")
    yield from visible(recording)
    yield from replay(name, recording, dice, a_cut=a_cut, cuts=cuts, tally=tally, place=place)


def judged(seed: int, names: Iterable[str], a_cut: int, cuts: int) -> None:
    """A line of JSON a workload: what its states showed."""
    for name in names:
        found = run(name, seed, a_cut=a_cut, cuts=cuts)
        counts = {"states": found.states, "lines": found.lines, "parts": found.broken_pairs}
        print(json.dumps({"name": name, **counts, "violations": found.violations}), flush=True)


def hunted(seed: int, names: Iterable[str]) -> None:
    """A line of JSON a planted bug: what showed it."""
    for name in names:
        with with_bug(name) as bug:
            found = search(bug.workload, seed)
        print(json.dumps({"name": name, "states": found.states, "violations": found.violations}), flush=True)


def long_run(seconds: float, seed: int, *names: str) -> None:
    """Round after round, each with another seed, as long as it may take."""
    ends = time.monotonic() + seconds
    tallies = {name: Tally() for name in names or WORKLOADS}
    while not any(t.states for t in tallies.values()) or time.monotonic() < ends:
        for name, tally in tallies.items():
            began, before, known = time.process_time(), tally.states, len(tally.violations)
            run(name, seed, a_cut=12, cuts=100, tally=tally)
            print(
                f"{name}: {tally.states - before} states in {time.process_time() - began:.1f} s", flush=True
            )
            for violation in tally.violations[known : known + 3]:  # at once: a run may be cut short
                print("    VIOLATION", violation[:1500], flush=True)
            if time.monotonic() > ends and all(t.states for t in tallies.values()):
                break
        seed += 1
    for name, tally in tallies.items():
        print(
            f"{name}: {tally.states} states, {len(tally.violations)} violations, {tally.broken_pairs} in parts"
        )
        for violation in tally.violations[:5]:
            print("   ", violation[:1500])
    print(sum(t.states for t in tallies.values()), "distinct states")


def main(what: str, *rest: str) -> None:
    logging.disable()  # what is put aside and moved away here is meant to be
    gc.freeze()
    if what == "long":
        long_run(float(rest[0]), int(rest[1]), *rest[2:])
        return
    seed, part, parts, *more = map(int, rest)
    if what == "states":
        judged(seed, [*WORKLOADS][part::parts], *more)
    else:
        hunted(seed, [*BUGS][part::parts])


if __name__ == "__main__":
    main(*sys.argv[1:])
