"""Lets processes die at every step of a change, one after the other, and says what each had acknowledged.

    python dying.py <prepared home> <work> <script> <id>

For n = 1, 2, ... a child on a copy of the prepared home runs the script and is gone before its n-th call that
changes the disk; between two such calls nothing happens that outlives a process. Then the home is opened twice.
A line of JSON a death: {"at", "died", "said", "files", "first", "second"}. The last one lived.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import statements

from artstore.host import boot
from artstore.host.boot import open_default
from artstore.spi import SCOPES, Principal, Query
from artstore_local import disk

STEPS = ("write", "fsync", "fdatasync", "rename", "unlink", "mkdir", "rmdir", "link", "replace")
BY = Principal(id="1", name="ivanov", scopes=SCOPES)
DEAD = 99


def arm(at: int) -> None:
    """Count every change of the disk from here on, and die at one."""
    count = 0

    def step(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                os._exit(DEAD)
            return call(*args, **kwargs)

        return counted

    for name in STEPS:
        setattr(os, name, step(getattr(os, name)))
    # What goes past these: renameat2, and opening that creates.
    assert disk._renameat2 is not None
    disk._renameat2 = step(disk._renameat2)  # type: ignore[assignment]
    disk.create = step(disk.create)


def change(home: Path, script: str, old: str, at: int, say: Callable[[str, Any], None]) -> None:
    if script == "recover":
        arm(at)
        open_default(home)
        return
    node = open_default(home)
    kernel = node.kernel
    arm(at)
    if script == "upload":
        session = kernel.begin(BY, filename="новый файл.txt")
        session.write(b"half, ")
        session.write(b"whole")
        say("there", json.loads(session.commit(tags=["new"])[0].encode()))
    elif script == "refused":
        session = kernel.begin(BY, filename="x.txt")
        session.write(b"half, ")
        session.abort("the client went away")
    elif script == "update":
        say("there", json.loads(kernel.update(BY, old, lambda _: {"description": "new"}).encode()))
    elif script == "delete":
        kernel.delete(BY, old, lambda _: None)
        say("gone", old)
        kernel.background.flush()
    elif script == "close":
        kernel.delete(BY, old, lambda _: None)
        say("gone", old)
        session = kernel.begin(BY, filename="last.txt")
        say("there", json.loads(session.commit()[0].encode()))
        node.close()


def in_a_child(run: Callable[[Callable[[str, Any], None]], None]) -> tuple[int, list[list[Any]]]:
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


def look(home: Path, say: Callable[[str, Any], None]) -> None:
    """Recover, and tell what the element answers."""
    node = open_default(home)
    found = node.kernel.search(Query(limit=1000)).items
    say("files", {attr.file_id: json.loads(attr.encode()) for attr in found})
    say("by id", {a.file_id: json.loads(node.kernel.attr(a.file_id).encode()) for a in found})
    say("report", str(node.report))
    node.close()


def rehearse(prepared: Path, home: Path) -> None:
    """Do everything once, so that no child has to import and to compile; no thread outlives this."""
    statements.share()
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


def main(prepared: Path, work: Path, script: str, old: str) -> None:
    rehearse(prepared, work / "rehearsal")
    at, code = 0, DEAD
    while code == DEAD:
        at += 1
        home = work / str(at)
        shutil.copytree(prepared, home)
        code, said = in_a_child(lambda say, home=home, at=at: change(home, script, old, at, say))
        looks = [in_a_child(lambda say, home=home: look(home, say)) for _ in range(2)]
        print(json.dumps({"at": at, "code": code, "said": said, "looks": looks}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
