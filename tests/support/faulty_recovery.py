"""A program of the fork server: one system call that recovery makes of its home fails.

A child runs one of the functions in `ACTIONS`, and reports lines [name, value].
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artstore import background
from artstore.attr import Attr
from artstore.errors import ArtstoreError, NotFound, Unavailable
from artstore.host import boot
from artstore.host.boot import Node, open_default
from artstore.spi import Query
from artstore_cli import main as cli
from artstore_sql.sqlite import availability
from support import reports
from support.faults import Faults
from support.uploads import BY, upload

Report = Callable[[str, Any], None]
DEAD = 99
"""The exit code of a child that dies in the middle of its changes."""


def prepare() -> None:
    """Make each change once, so that no child has to import and to compile."""
    # The rounds of the background thread are called where a script wants them.
    background.INTERVAL = background.RETRY_MIN = 1e6
    availability.PAUSE = 0.0
    with tempfile.TemporaryDirectory() as home:
        node = open_default(Path(home))
        file_id = upload(node.kernel, b"x").file_id
        node.kernel.update(BY, file_id, lambda _: {"description": "new"})
        node.kernel.search(Query(limit=1000))
        node.kernel.delete(BY, file_id, lambda _: None)
        node.close()
    boot.open_registry = lambda _settings: node.registry


def run(action: str, home: str, report: str, **arguments: Any) -> None:
    ACTIONS[action](Path(home), lambda name, value: reports.write(report, [name, value]), **arguments)
    os._exit(0)  # a store that failed to close may have left a thread


def fill(home: Path, report: Report) -> None:
    """Make a home of four files."""
    node = open_default(home)
    for number in range(4):
        report("old", upload(node.kernel, b"old" * number, f"old-{number}.txt", description="old").file_id)
    node.close()


def die(home: Path, report: Report, *, old: list[str]) -> None:
    """Begin one change of each kind, or make it without its being durable in the cache; then die."""
    node = open_default(home)
    kernel, parts = node.kernel, node.kernel.parts
    half = kernel.begin(BY, filename="half.txt")
    half.write(b"half")
    report("there", as_json(upload(kernel, b"whole", "whole.txt")))
    report("there", as_json(kernel.update(BY, old[0], lambda _: {"description": "new"})))
    kernel.delete(BY, old[1], lambda _: None)
    report("gone", old[1])
    # A deletion and an update reach their commit points, and an upload its staged files.
    deleted = kernel.attr(old[2])
    parts.log.begin("delete", by="x", file_id=old[2], key=deleted.key)
    parts.backend.delete(deleted.key, if_match=parts.backend.read_sidecar(deleted.key))
    attr = upload(kernel, b"late", "late.txt")
    parts.log.begin("update", by="x", file_id=attr.file_id, key=attr.key, revision=2).sync()
    changed = attr.model_copy(update={"revision": 2, "description": "late"}).encode()
    parts.backend.replace_sidecar(attr.key, changed, if_match=attr.encode())
    parts.log.begin("mode", by="x", key="ro")
    kernel.index.backlog.require_reindex()
    shard = parts.backend._staging.path / "0"  # type: ignore[attr-defined]
    prefix = f"{attr.storage_path.replace('/', ',')},,"
    for name in ("both_ivanov_20250111T153045_00000002.txt", "sidecar_ivanov_20250111T153045_00000003.txt"):
        (shard / f"{prefix}{name}.attr.json").write_bytes(b"{}")
    (shard / f"{prefix}both_ivanov_20250111T153045_00000002.txt").write_bytes(b"both")
    (shard / f"~update~{prefix}{attr.storage_filename}.attr.json").write_bytes(b"{}")
    os._exit(DEAD)


def start(home: Path, report: Report, *, old: list[str], at: tuple[int, int]) -> None:
    """Start where another process died; one call fails."""
    node = with_fault(home, report, at, lambda: open_default(home), cli._explain)
    if node is not None:
        serve(node, report, old)


def recover(home: Path, report: Report, *, old: list[str], at: tuple[int, int], gate: str) -> None:
    """Recover a process that died while this one serves; one call fails. `gate` gives the ids of its files."""
    node = open_default(home)
    with open(gate, encoding="utf-8") as opened:
        known = [*old, *opened.read().split()]
    with_fault(home, report, at, node.kernel.background.recover, is_artstore_error)
    serve(node, report, known)


def close(home: Path, report: Report, *, old: list[str], at: tuple[int, int]) -> None:
    """Close an element that has a tombstone and a new entry; one call fails."""
    node = open_default(home)
    node.kernel.delete(BY, old[0], lambda _: None)
    report("gone", old[0])
    report("there", as_json(upload(node.kernel, b"", "last.txt")))
    with_fault(home, report, at, node.close, is_artstore_error)


def look(home: Path, report: Report) -> None:
    """Recover without a fault, and report what the element answers."""
    node = open_default(home)
    found = node.kernel.search(Query(limit=1000)).items
    report("files", {attr.file_id: as_json(attr) for attr in found})
    report("by id", {attr.file_id: as_json(node.kernel.attr(attr.file_id)) for attr in found})
    report("report", str(node.report))
    node.close()


ACTIONS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (fill, die, start, recover, close, look)
}


def with_fault(
    home: Path, report: Report, at: tuple[int, int], action: Callable[[], Any], explain: Callable[..., Any]
) -> Any:
    """Return what `action` returns while one call fails, or None when it raises."""
    faults = Faults(within=home)
    faults.arm(*at)
    try:
        return action()
    except Exception as e:
        report("refused", explain(e))
        return None
    finally:
        faults.disarm()
        report("fault", [faults.hit, faults.kinds, faults.resynced])


def serve(node: Node, report: Report, known: list[str]) -> None:
    """Report what the element answers before and after a round of the background thread, and close it."""
    report("answers", answers(node, known))
    try:
        node.kernel.background.recover()
        node.kernel.background.drain()
    except Unavailable as e:
        report("still unavailable", e.detail)
    report("answers", answers(node, known))
    node.close()


def answers(node: Node, known: list[str]) -> list[dict[str, Any] | None]:
    """Return the answers by id, and those of a search, or None when it is refused."""
    found: dict[str, Any] = {}
    for file_id in known:
        try:
            found[file_id] = as_json(node.kernel.attr(file_id))
        except NotFound:
            continue
    try:
        items = node.kernel.search(Query(limit=1000)).items
    except Unavailable:
        return [found, None]
    return [found, {attr.file_id: as_json(attr) for attr in items}]


def is_artstore_error(error: Exception) -> bool:
    return isinstance(error, ArtstoreError)


def as_json(attr: Attr) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(attr.encode())
    return content
