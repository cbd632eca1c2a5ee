"""What a start looks at depends on what was under way, not on how many files there are. Counted, not timed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from support import servers, tracing
from support.deaths import Mortal, Nursery, answers, on_disk

LOOKS = (
    "openat",
    "open",
    "newfstatat",
    "statx",
    "stat",
    "lstat",
    "getdents64",
    "readlink",
    "access",
    "faccessat2",
)


def grow(home: Path, hours: int) -> None:
    """Copies of the files of the present hour, under ids and names of their own, in `hours` older directories."""
    files = home / "files"
    (hour,) = (d for d in files.glob("2*/*/*/*"))
    for n in range(hours):
        directory = f"2010/01/{n // 24 + 1:02d}/{n % 24:02d}"
        (files / directory).mkdir(parents=True)
        for sidecar in hour.glob("*.attr.json"):
            old = sidecar.read_text()
            name = sidecar.name.removesuffix(".attr.json")
            new = old.replace(f'"{hour.relative_to(files)}"', f'"{directory}"')
            file_id = re.search(r'"file_id": ?"([0-9a-f-]+)"', old)
            assert file_id
            new = new.replace(file_id[1], f"{n:08x}-0000-4000-8000-{file_id[1][-12:]}")
            (files / directory / f"{name}.attr.json").write_text(new)
            os.link(hour / name, files / directory / name)


def looked_at(nursery: Nursery, home: Path, after: Callable[[Mortal], None]) -> list[str]:
    """What a start opens, lists and asks for in the tree of a home; `after` it something is done to the element."""
    gate = nursery.fresh("gate")
    os.mkfifo(gate)
    element = nursery.birth(home, gate=gate)
    with tracing.watched(element.pid, home, nursery.fresh("trace"), LOOKS) as trace:
        os.close(os.open(gate, os.O_WRONLY))
        element.ready()
    after(element)
    return [call.text for call in trace.calls(all_of=True) if f"{home}/files" in call.text]


def test_a_start_looks_at_what_was_under_way(tmp_path: Path, tried: Callable[[str], None]) -> None:
    nursery = Nursery(tmp_path)
    try:
        home = tmp_path / "home"
        servers.prepare(home)
        element = nursery.birth(home).ready()
        for n in range(2):
            element.upload(b"old", f"{n}.txt", description="old")
        leave(element)
        counts = {}
        for hours in (0, 60):
            grow(home, hours)
            (home / "files" / ".artstore" / "checkpoint.json").unlink()  # the cache is filled anew
            counts["filling", hours] = looked_at(nursery, home, leave)
            counts["stopped", hours] = looked_at(nursery, home, Mortal.kill)
            counts["killed", hours] = looked_at(nursery, home, leave)
            element = nursery.birth(home).ready()
            there = answers(element)
            assert there == on_disk(home)
            assert len(there) == 2 + 2 * hours
            leave(element)
        assert len([text for text in counts["filling", 60] if "/files/2010/" in text]) > 60
        for how in ("stopped", "killed"):
            assert not [text for text in counts[how, 60] if "/files/2010/" in text]
            assert abs(len(counts[how, 60]) - len(counts[how, 0])) <= 4, how
        tried(
            ", ".join(f"{how} with {hours} old hours: {len(c)} looks" for (how, hours), c in counts.items())
        )
    finally:
        nursery.close()


def leave(element: Mortal) -> None:
    os.kill(element.pid, signal.SIGTERM)
    assert element.died(30)
