"""What is recorded: each does one thing to an element, with power failing at any moment of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from artstore.attr import Attr
from artstore.errors import ArtstoreError
from artstore.modes import Mode
from artstore_local.group_commit import Committer, Publication
from crash.stage import BY, Stage
from crash.tape import DEAD

CHOSEN = "c0ffee00-0000-4000-8000-0000decade00"
SECOND = "c0ffee00-0000-4000-8000-0000decade01"
OLD = 5 * 24.0
WAL = "/state/wal"
HOUR = "/files/2"


@dataclass(frozen=True)
class Workload:
    run: Callable[[Stage], None]
    ages: tuple[float, ...] = (0.0,)
    """Of the files that are there before, in hours."""
    mode: str = "edit"
    chosen: str | None = None


WORKLOADS: dict[str, Workload] = {}


def workload(*ages: float, **more: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    def keep(run: Callable[[Stage], None]) -> Callable[[Stage], None]:
        WORKLOADS[run.__name__] = Workload(run, ages, **more)
        return run

    return keep


@workload()
def first_start(s: Stage) -> None:
    s.allow_power_loss()
    node = s.open()
    s.upload(node.kernel, "first.txt", b"first")
    node.close()


@workload(0.0)
def one_upload(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.upload(kernel, "новый.txt", b"half, ", b"whole")


@workload(0.0)
def uploads_in_turn(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    for n in range(3):
        s.upload(kernel, f"{n}.txt", b"x" * n * 3000)
    kernel.background.flush()
    s.upload(kernel, "last.txt", b"last")


@workload(0.0)
def a_batch(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    _gather(6)
    s.together(*(lambda n=n: s.upload(kernel, f"{n}.txt", b"y" * n * 100) for n in range(6)))  # type: ignore[misc]


def _gather(uploads: int, fails: bool = False) -> None:
    """One upload is committed alone, the others in one batch behind it; its leader `fails` with an unexpected error."""
    sync = Committer._sync_files

    def gathered(committer: Committer, batch: list[Publication]) -> None:
        if len(batch) == 1:
            while len(committer._waiting) < uploads - 1:
                time.sleep(0.001)
        elif fails:
            raise MemoryError
        sync(committer, batch)

    Committer._sync_files = gathered  # type: ignore[method-assign]


@workload(OLD)
def new_hour(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.together(*(lambda n=n: s.upload(kernel, f"{n}.txt", b"z" * n) for n in range(3)))  # type: ignore[misc]
    s.clock(1)
    s.upload(kernel, "next.txt", b"next hour")


@workload(OLD, OLD + 1)
def update_old(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.update(kernel, s.files[0]["file_id"], "new")
    s.update(kernel, s.files[1]["file_id"], "new too")
    s.update(kernel, s.files[0]["file_id"], "newer")


@workload(OLD, OLD + 1, 0.0)
def delete_old(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.delete(kernel, s.files[0]["file_id"])
    s.delete(kernel, s.files[2]["file_id"])
    kernel.background.flush()
    s.upload(kernel, "after.txt", b"after")


@workload(OLD, 0.0)
def update_then_delete(s: Stage) -> None:
    node = s.open()
    s.allow_power_loss()
    for file in s.files:
        s.update(node.kernel, file["file_id"], "new")
        s.delete(node.kernel, file["file_id"])
    node.kernel.background.flush()
    node.close()


@workload(0.0, chosen=CHOSEN)
def the_same_id_again(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.delete(kernel, CHOSEN)
    s.upload(kernel, "old-0.txt", b"another", file_id=CHOSEN)
    s.delete(kernel, CHOSEN)
    kernel.background.flush()
    s.upload(kernel, "old-0.txt", b"a third", file_id=CHOSEN)
    s.upload(kernel, "old-0.txt", b"a third", file_id=CHOSEN)
    s.update(kernel, CHOSEN, "a third")


@workload(0.0, mode="rw")
def modes(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.transition(kernel, Mode.RO)
    s.transition(kernel, Mode.AR)
    s.transition(kernel, Mode.RO, confirm=True)
    s.transition(kernel, Mode.RW, confirm=True)
    s.upload(kernel, "again.txt", b"again")


@workload(0.0)
def refused(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    for n in range(3):
        session = kernel.begin(BY, filename=f"{n}.txt")
        session.write(b"half" * n)
        if n == 1:
            session.abort("the client went away")
        else:
            try:
                session.commit(sha256=["0" * 64])
            except ArtstoreError:
                pass
    s.upload(kernel, "taken.txt", b"taken")


@workload(0.0)
def data_fsync_fails(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.fail("fsync", ",,1_")
    s.together(*(lambda n=n: s.upload(kernel, f"{n}.txt", b"w" * n * 900) for n in range(4)))  # type: ignore[misc]
    s.upload(kernel, "1.txt", b"w" * 900)


@workload(0.0)
def directory_fsync_fails(s: Stage) -> None:
    kernel = s.open().kernel
    s.upload(kernel, "before.txt", b"before")
    s.allow_power_loss()
    s.fail("fsync", HOUR)
    s.together(*(lambda n=n: s.upload(kernel, f"{n}.txt", b"v" * n) for n in range(3)))  # type: ignore[misc]
    for n in range(3):
        s.upload(kernel, f"{n}.txt", b"v" * n)
    s.delete(kernel, s.files[0]["file_id"])


@workload(0.0, OLD)
def full_disk(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.fail("write", "staging", errno.ENOSPC, nth=2, times=2)
    s.upload(kernel, "0.txt", b"a" * 5000, b"b" * 5000)
    s.upload(kernel, "1.txt", b"fits")
    s.delete(kernel, s.files[0]["file_id"])
    kernel.background.flush()
    s.fail("write", WAL, errno.ENOSPC, times=3)
    s.upload(kernel, "2.txt", b"no intent")
    s.delete(kernel, s.files[1]["file_id"])
    s.upload(kernel, "3.txt", b"fits again")


@workload(0.0)
def large_file(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    attr = s.upload(kernel, "large.bin", b"1" * (1 << 20), b"2" * (1 << 20), b"3" * 4097)
    assert attr is not None
    s.update(kernel, attr.file_id, "large")


@workload(0.0, OLD)
def shutdown(s: Stage) -> None:
    node = s.open()
    s.upload(node.kernel, "0.txt", b"last")
    s.allow_power_loss()
    s.delete(node.kernel, s.files[0]["file_id"])
    s.update(node.kernel, s.files[1]["file_id"], "last")
    s.upload(node.kernel, "1.txt", b"very last")
    node.close()


@workload(0.0, OLD)
def restart(s: Stage) -> None:
    node = s.open()
    s.upload(node.kernel, "0.txt", b"0")
    s.update(node.kernel, s.files[0]["file_id"], "new")
    node.close()
    s.allow_power_loss()
    node = s.open()
    s.upload(node.kernel, "1.txt", b"1")
    node.kernel.background.flush()
    s.delete(node.kernel, s.files[1]["file_id"])
    node.close()


@workload(0.0)
def checkpoint_moves(s: Stage) -> None:
    s.clock(1)
    node = s.open()
    s.upload(node.kernel, "early.txt", b"early")
    s.allow_power_loss()
    for hours in (3, 5):
        s.clock(hours)
        s.upload(node.kernel, f"{hours}.txt", b"x" * hours)
        node.kernel.background.flush()
        s.update(node.kernel, s.files[0]["file_id"], f"after {hours} hours")
    node.close()


@workload(0.0)
def clock_set_back(s: Stage) -> None:
    kernel = s.open().kernel
    s.clock(-7)
    s.allow_power_loss()
    attr = s.upload(kernel, "back.txt", b"back")
    s.upload(kernel, "chosen.txt", b"chosen", file_id=SECOND)
    if attr is not None:
        s.update(kernel, attr.file_id, "back")


@workload(OLD)
def slow_upload(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    session = kernel.begin(BY, filename="slow.txt")
    session.write(b"slow, ")
    s.clock(4)
    s.upload(kernel, "quick.txt", b"quick")
    kernel.background.flush()
    session.write(b"but whole")
    facts = {"file_id": session.file_id, "original_filename": "slow.txt"}
    s.ask("upload", session.file_id, facts, lambda: session.commit()[0])
    kernel.background.flush()


@workload(0.0, OLD)
def update_fsync_fails(s: Stage) -> None:
    kernel = s.open().kernel
    old = s.files[1]["file_id"]
    s.allow_power_loss()
    s.fail("fdatasync", WAL)
    s.update(kernel, old, "new")
    s.update(kernel, old, "newer")
    s.fail("fsync", HOUR)
    s.update(kernel, old, "newest")
    s.update(kernel, old, "newest")
    s.update(kernel, s.files[0]["file_id"], "new")


@workload(0.0, OLD)
def delete_fsync_fails(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.fail("fsync", "tombstones")
    s.delete(kernel, s.files[0]["file_id"])
    s.delete(kernel, s.files[0]["file_id"])
    s.upload(kernel, "0.txt", b"0")
    kernel.background.drain()
    kernel.background.flush()


@workload(0.0, OLD)
def rebuild(s: Stage) -> None:
    """The database was removed."""
    s.allow_power_loss()
    for left in (s.home / "state").glob("cache.db*"):
        left.unlink()
    node = s.open()
    s.upload(node.kernel, "0.txt", b"0")
    s.update(node.kernel, s.files[1]["file_id"], "new")
    node.kernel.background.flush()
    s.delete(node.kernel, s.files[1]["file_id"])


def _killed(s: Stage, op: str, where: str, nth: int = 1) -> None:
    """A process dies in the middle of everything; a successor recovers and goes on."""

    def victim() -> None:
        kernel = s.open().kernel
        s.allow_power_loss()
        s.die(op, where, nth)
        s.update(kernel, s.files[1]["file_id"], "new")
        s.upload(kernel, "chosen.txt", b"chosen", file_id=CHOSEN)
        s.delete(kernel, s.files[2]["file_id"])
        s.upload(kernel, "0.txt", b"0")

    assert s.process(victim)() == DEAD
    kernel = s.open().kernel
    s.upload(kernel, "chosen.txt", b"chosen", file_id=CHOSEN)
    s.update(kernel, s.files[1]["file_id"], "new")
    kernel.background.flush()
    s.upload(kernel, "1.txt", b"1")


@workload(0.0, OLD, OLD)
def killed_before_the_directory_is_synced(s: Stage) -> None:
    _killed(s, "fsync", HOUR, nth=5)  # after those of the update and of three new parents


@workload(0.0, OLD, OLD)
def killed_in_an_upload(s: Stage) -> None:
    _killed(s, "rename", "chosen", nth=2)


@workload(0.0, OLD, OLD)
def killed_in_a_deletion(s: Stage) -> None:
    _killed(s, "fsync", "tombstones")


@workload(0.0, OLD, OLD)
def killed_in_an_update(s: Stage) -> None:
    _killed(s, "fsync", HOUR)


@workload(0.0, OLD)
def two_processes(s: Stage) -> None:
    def other() -> None:
        theirs = s.open().kernel
        s.update(theirs, s.files[1]["file_id"], "theirs")
        s.upload(theirs, "theirs.txt", b"theirs")
        s.die("rename", "half")
        s.upload(theirs, "half.txt", b"half")

    run_other = s.process(other)
    kernel = s.open().kernel
    s.allow_power_loss()
    s.upload(kernel, "mine.txt", b"mine")
    assert run_other() == DEAD
    s.upload(kernel, "mine too.txt", b"mine too")
    s.delete(kernel, s.files[0]["file_id"])
    kernel.background.recover()
    kernel.background.flush()
    s.upload(kernel, "at last.txt", b"at last")


@workload(0.0)
def a_live_neighbour(s: Stage) -> None:
    """An element is opened beside one whose upload is under way."""
    run_other = s.process(lambda: s.open().close())
    kernel = s.open().kernel
    s.allow_power_loss()
    session = kernel.begin(BY, filename="slow.txt")
    session.write(b"slow")
    assert run_other() == 0
    session.write(b" and whole")
    facts = {"file_id": session.file_id, "original_filename": "slow.txt"}
    done = s.ask("upload", session.file_id, facts, lambda: session.commit()[0])
    s.promise(done is not None, "a live upload was taken for a dead one")


@workload(0.0)
def the_leader_fails(s: Stage) -> None:
    """A batch whose leader meets an unexpected error."""
    kernel = s.open().kernel
    s.allow_power_loss()
    _gather(4, fails=True)

    def upload(n: int) -> None:
        try:
            s.upload(kernel, f"{n}.txt", b"u" * n)
        except MemoryError:
            pass

    s.together(*(lambda n=n: upload(n) for n in range(4)))  # type: ignore[misc]


@workload(OLD)
def two_change_one(s: Stage) -> None:
    """A change is made while another one is being made up."""
    kernel = s.open().kernel
    old = s.files[0]["file_id"]
    s.allow_power_loss()
    other = threading.Thread(target=lambda: s.update(kernel, old, "theirs"))

    def change(_: Attr) -> dict[str, str]:
        other.start()
        other.join(0.2)  # it has to wait for us, or else it is quick
        return {"description": "mine"}

    s.ask("update", old, {"file_id": old, "description": "mine"}, lambda: kernel.update(BY, old, change))
    other.join()


@workload(0.0)
def short_writes(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.shorten("staging", 5, times=3)
    attr = s.upload(kernel, "short.txt", b"not so short")
    if attr is not None:
        s.shorten("staging", 100)
        s.update(kernel, attr.file_id, "short")


@workload(0.0, 0.0)
def a_damaged_pair(s: Stage) -> None:
    """The data of a file was removed."""
    file = s.files[1]
    s.tape.add("damage", file["file_id"])
    hour = s.home / "files" / file["storage_path"]
    os.unlink(hour / file["storage_filename"])
    fd = os.open(hour, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    s.allow_power_loss()
    kernel = s.open().kernel
    s.upload(kernel, "0.txt", b"0")


@workload(0.0, 0.0)
def leftovers(s: Stage) -> None:
    """Recovery clears what dead processes left in every state at once, and is cut off at each of its steps."""
    gone, torn = s.files
    files, hour = s.home / "files", s.home / "files" / gone["storage_path"]
    shard = files / ".artstore" / "staging" / "1-dead" / "0"
    for directory in (shard.parent, shard):
        os.mkdir(directory)
    prefix = gone["storage_path"].replace("/", ",") + ",,"
    name = "half_ivanov_20250111T153045_0000000"
    for path, content in {
        shard / f"{prefix}{name}1.txt": b"data only",
        shard / f"{prefix}{name}2.txt": b"both",
        shard / f"{prefix}{name}2.txt.attr.json": b"{}",
        shard / f"{prefix}{name}3.txt.attr.json": b"{}",
        hour / f"{name}3.txt": b"data renamed",
        shard / f"~update~{prefix}{gone['storage_filename']}.attr.json": b"{}",
    }.items():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
    # A deletion came as far as its tombstone. An earlier power cut kept the later of two renames only.
    s.tape.add("ask", (0, 0), "delete", gone["file_id"], {"file_id": gone["file_id"]})
    tombstones = files / ".artstore" / "tombstones"
    filename = gone["storage_filename"]
    os.rename(hour / f"{filename}.attr.json", tombstones / f"{prefix}{filename}.attr.json")
    os.rename(hour / torn["storage_filename"], shard / f"{prefix}{torn['storage_filename']}")
    for directory in (shard, shard.parent, shard.parent.parent, tombstones, hour):
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    s.allow_power_loss()
    s.open()


@workload(0.0, mode="rw")
def mode_fsync_fails(s: Stage) -> None:
    kernel = s.open().kernel
    s.allow_power_loss()
    s.fail("fsync", "/files/.artstore", nth=2)  # of its name
    s.transition(kernel, Mode.RO)
    s.transition(kernel, Mode.RO)  # the same again, and it is so already
