"""Lets every call that recovery makes of the home fail once, with every error it can have, and says what came of it.

    python relapsing.py <place> start|settle|close [every]

For each call n, and each error, a child on a copy of the home with that one fault: it starts where a process died in
the middle of everything, or settles what such a neighbour left while it serves, or ends. Then the copy is opened twice
without a fault. A line of JSON a fault. `every`: only each n-th call, from a different one each run, with one error.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from failing import BY, Faults

from artstore import background
from artstore.errors import ArtstoreError, NotFound, Unavailable
from artstore.host import boot
from artstore.host.boot import Node, open_default
from artstore.spi import Query
from artstore_cli import main as cli
from artstore_sql.sqlite import availability

Say = Callable[[str, Any], None]
DEAD = 99


def in_a_child(run: Callable[[Say], None]) -> tuple[int, list[list[Any]]]:
    """How a child that runs `run` ended, and what it said through the function it was given."""
    read, write = os.pipe()
    raw_write = os.write
    child = os.fork()
    if child == 0:
        os.close(read)

        def say(what: str, value: Any) -> None:
            raw_write(write, json.dumps([what, value]).encode() + b"\n")

        try:
            run(say)
        except BaseException as e:
            say("raised", repr(e))
            os._exit(1)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as lines:
        said = [json.loads(line) for line in lines]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def look(home: Path, say: Say) -> None:
    """Recover, and tell what the element answers."""
    node = open_default(home)
    found = node.kernel.search(Query(limit=1000)).items
    say("files", {attr.file_id: json.loads(attr.encode()) for attr in found})
    say("by id", {a.file_id: json.loads(node.kernel.attr(a.file_id).encode()) for a in found})
    say("report", str(node.report))
    node.close()


def rehearse(prepared: Path, home: Path) -> None:
    """Do everything once, so that no child has to import and to compile; no thread outlives this."""
    shutil.copytree(prepared, home)
    node = open_default(home)
    session = node.kernel.begin(BY, filename="x.txt")
    session.write(b"x")
    file_id = session.commit()[0].file_id
    node.kernel.update(BY, file_id, lambda _: {"description": "new"})
    node.kernel.search(Query(limit=1000))
    node.kernel.delete(BY, file_id, lambda _: None)
    node.close()
    shutil.rmtree(home)
    boot.open_registry = lambda _settings: node.registry
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()


def die_in_the_middle(node: Node, old: list[str], say: Say) -> None:
    """Something of everything is under way, or done and not durable in the cache; then the process is gone."""
    kernel = node.kernel
    half = kernel.begin(BY, filename="half.txt")
    half.write(b"half")
    whole = kernel.begin(BY, filename="whole.txt")
    whole.write(b"whole")
    say("there", json.loads(whole.commit()[0].encode()))
    say("there", json.loads(kernel.update(BY, old[0], lambda _: {"description": "new"}).encode()))
    kernel.delete(BY, old[1], lambda _: None)
    say("gone", old[1])
    # A deletion and an update that came as far as their commit points, and an upload as far as its token.
    buried = kernel.attr(old[2])
    kernel.parts.log.begin("delete", by="x", file_id=old[2], key=buried.key)
    kernel.parts.backend.delete(buried.key, if_match=kernel.parts.backend.read_sidecar(buried.key))
    last = kernel.begin(BY, filename="late.txt")
    last.write(b"late")
    attr = last.commit()[0]
    kernel.parts.log.begin("update", by="x", file_id=attr.file_id, key=attr.key, revision=2).sync()
    changed = attr.model_copy(update={"revision": 2, "description": "late"}).encode()
    kernel.parts.backend.replace_sidecar(attr.key, changed, if_match=attr.encode())
    kernel.parts.log.begin("mode", by="x", key="ro")
    kernel.index.backlog.mark_incomplete()
    shard = kernel.parts.backend._staging.path / "0"  # type: ignore[attr-defined]
    prefix = f"{attr.storage_path.replace('/', ',')},,"
    for name in ("both_ivanov_20250111T153045_00000002.txt", "sidecar_ivanov_20250111T153045_00000003.txt"):
        (shard / f"{prefix}{name}.attr.json").write_bytes(b"{}")
    (shard / f"{prefix}both_ivanov_20250111T153045_00000002.txt").write_bytes(b"both")
    (shard / f"~update~{prefix}{attr.storage_filename}.attr.json").write_bytes(b"{}")
    os._exit(DEAD)


def answers(node: Node, known: list[str]) -> list[dict[str, Any] | None]:
    """What the element answers: by id always, and a search whole or not at all."""
    found: dict[str, Any] = {}
    for file_id in known:
        try:
            found[file_id] = json.loads(node.kernel.attr(file_id).encode())
        except NotFound:
            continue
    try:
        items = node.kernel.search(Query(limit=1000)).items
    except Unavailable:
        return [found, None]
    return [found, {attr.file_id: json.loads(attr.encode()) for attr in items}]


def relapse(home: Path, script: str, old: list[str], faults: Faults, at: tuple[int, int], say: Say) -> None:
    """One fault, and what became of it."""
    stderr = os.open(home.with_name("stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(stderr, 2)
    known = list(old)

    def note(what: str, value: Any) -> None:
        known.append(value["file_id"] if what == "there" else value)
        say(what, value)

    node: Node | None = None
    if script == "settle":
        go, gone = os.pipe()
        neighbour = os.fork()
        if neighbour == 0:
            os.close(gone)
            os.read(go, 1)
            with open(home.with_name("said"), "w") as said:
                die_in_the_middle(
                    open_default(home), old, lambda *told: print(json.dumps(told), file=said, flush=True)
                )
        node = open_default(home)
        os.close(gone)
        os.waitpid(neighbour, 0)
        for line in home.with_name("said").read_text().splitlines():
            note(*json.loads(line))
    elif script == "close":
        node = open_default(home)
        node.kernel.delete(BY, old[0], lambda _: None)
        note("gone", old[0])
        note("there", json.loads(node.kernel.begin(BY, filename="last.txt").commit()[0].encode()))
    faults.arm(*at)
    try:
        if script == "start":
            node = open_default(home)
        elif script == "settle":
            assert node is not None
            node.kernel.background.recover()
        else:
            assert node is not None
            node.close()
    except Exception as e:
        say("refused", cli._explain(e) if script == "start" else isinstance(e, ArtstoreError))
        node = None if script == "start" else node
    faults.disarm()
    say("fault", [faults.hit, faults.kinds, faults.again])
    if node is None or script == "close":
        return
    say("answers", answers(node, known))
    try:
        node.kernel.background.recover()  # as the background thread does every few seconds
        node.kernel.background.drain()
    except Unavailable as e:
        say("still", e.detail)
    say("answers", answers(node, known))
    node.close()


def prepare(home: Path, script: str) -> list[str]:
    """A home of four files, at whose start there is much to do if that is what fails; their ids."""

    def fill(say: Say) -> None:
        node = open_default(home)
        for number in range(4):
            session = node.kernel.begin(BY, filename=f"old-{number}.txt")
            session.write(b"old" * number)
            say("old", session.commit(description="old")[0].file_id)
        node.close()

    old = [file_id for _, file_id in in_a_child(fill)[1]]
    if script == "start":
        _, said = in_a_child(lambda say: die_in_the_middle(open_default(home), old, say))
        print(json.dumps({"old": old, "said": said}), flush=True)
    else:
        print(json.dumps({"old": old, "said": []}), flush=True)
    return old


def main(place: Path, script: str, every: int) -> None:
    background.INTERVAL, background.RETRY_MIN, availability.PAUSE = (
        1e6,
        1e6,
        0.0,
    )  # its ticks are a script of their own
    prepared, work = place / "prepared", place / "work"
    work.mkdir(parents=True)
    home = work / "home"
    old = prepare(prepared, script)
    rehearse(prepared, work / "rehearsal")
    faults = Faults(within=home)
    n, kind = 1 + random.randrange(every), 0
    while True:
        shutil.copytree(prepared, home)
        point = (n, kind if every == 1 else random.randrange(4))
        code, said = in_a_child(lambda say, point=point: relapse(home, script, old[:3], faults, point, say))
        fault = next((value for what, value in said if what == "fault"), None)
        told: dict[str, Any] = {"n": n, "code": code, "said": said}
        told["stderr"] = (work / "stderr").read_text()
        if fault is not None and fault[0] is None:
            break
        told["looks"] = [in_a_child(lambda say: look(home, say)) for _ in range(2)]
        told["home"] = str(work / f"{n}-{kind}")
        os.rename(home, told["home"])
        if fault is not None:
            (name, error), kinds, _ = fault
            told["call"], told["error"] = name, errno.errorcode.get(error, "short")
            kind += 1
        print(json.dumps(told), flush=True)
        if fault is None or kind >= kinds or every > 1:
            n, kind = n + every, 0
    shutil.rmtree(home)
    print(json.dumps({"calls": n - 1}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
