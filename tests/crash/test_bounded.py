"""How many calls a start makes depends on the changes in progress, not on the number of files. Counted, not timed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from support import servers, tracing
from support.crashes import Launcher, SingleProcess, files_on_disk, read_files

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
    """Copy the files of the present hour to `hours` older directories, each under an id of its own."""
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


def record_start(launcher: Launcher, home: Path, after: Callable[[SingleProcess], None]) -> list[str]:
    """Return what a start opens, lists and asks for in the tree of a home. `after`: what ends the element."""
    element, open_home = launcher.start_closed(home)
    with tracing.watched(element.pid, home, launcher.new_path("trace"), LOOKS) as trace:
        open_home()
        element.wait_ready()
    after(element)
    return [call.text for call in trace.calls(all_of=True) if f"{home}/files" in call.text]


def test_the_cost_of_a_start_does_not_grow_with_the_store(
    tmp_path: Path, tried: Callable[[str], None]
) -> None:
    launcher = Launcher(tmp_path)
    try:
        home = tmp_path / "home"
        servers.prepare(home)
        element = launcher.start(home).wait_ready()
        for n in range(2):
            element.upload(b"old", f"{n}.txt", description="old")
        element.end()
        counts = {}
        for hours in (0, 60):
            grow(home, hours)
            (home / "files" / ".artstore" / "checkpoint.json").unlink()  # the cache is filled again
            counts["filling", hours] = record_start(launcher, home, SingleProcess.end)
            counts["stopped", hours] = record_start(launcher, home, SingleProcess.kill)
            counts["killed", hours] = record_start(launcher, home, SingleProcess.end)
            element = launcher.start(home).wait_ready()
            there = read_files(element)
            assert there == files_on_disk(home)
            assert len(there) == 2 + 2 * hours
            element.end()
        assert len([text for text in counts["filling", 60] if "/files/2010/" in text]) > 60
        for how in ("stopped", "killed"):
            assert not [text for text in counts[how, 60] if "/files/2010/" in text]
            assert abs(len(counts[how, 60]) - len(counts[how, 0])) <= 4, how
        tried(
            ", ".join(f"{how} with {hours} old hours: {len(c)} looks" for (how, hours), c in counts.items())
        )
    finally:
        launcher.close()
