"""What an answer costs the disk: the fsyncs of real changes over HTTP, seen by strace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support import servers, tracing
from support.servers import until

SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync", "sync", "syncfs")
DATA = b"x" * 5000


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_fsyncs_of_an_answer(tmp_path: Path, adapter: str, tried: Callable[[str], None]) -> None:
    """In the steady state: the first change of a process and of an hour makes directories durable as well."""
    with servers.serving(adapter, tmp_path / "home") as element:
        (worker,) = until(element.workers, "a worker")

        def synced(change: Callable[[], object], what: str) -> list[str]:
            """The places that were made durable, in order of name; `~` for what differs from run to run."""
            with tracing.watched(worker, element.home, tmp_path / f"{what}.trace", SYNCS) as trace:
                change()
            found = []
            for call in trace.calls(all_of=True):
                place = re.search(r"<([^>]*)>", call.text)
                assert place, call
                name = str(Path(place[1]).relative_to(element.home))
                name = re.sub(r"\d{4}/\d\d/\d\d/\d\d$", "HOUR", name)
                name = re.sub(r"staging/.*?((\.attr\.json)?)$", r"staging/~\1", name)
                found.append(f"{call.name} {re.sub(r'wal/.*', 'wal/~', name)}")
            tried(f"{what}: {len(found)} fsyncs")
            return sorted(found)

        pair = ["fsync files/.artstore/staging/~", "fsync files/.artstore/staging/~.attr.json"]
        hour = "fsync files/HOUR"
        made = [element.upload(DATA, f"{n}.txt") for n in range(4)]
        element.patch(made[0]["file_id"], {"description": "warm"})
        for n in range(3):  # an hour that just began costs its directories: then again
            uploaded = synced(lambda: element.upload(DATA, "form.txt"), f"{adapter}, upload {n}")
            if uploaded == sorted([*pair, hour]):
                break
        assert uploaded == sorted([*pair, hour])
        assert synced(lambda: element.post(DATA, "raw.txt"), f"{adapter}, raw upload") == sorted(
            [*pair, hour]
        )
        update = synced(lambda: element.patch(made[1]["file_id"], {"description": "d"}), f"{adapter}, update")
        assert update == sorted(["fdatasync state/wal/~", pair[1], hour])
        delete = synced(
            lambda: element.ask("DELETE", servers.file_path(made[2]["file_id"])), f"{adapter}, delete"
        )
        assert delete == sorted(["fsync files/.artstore/tombstones", hour])
        reading = synced(
            lambda: [element.download(made[3]["file_id"]), element.get("/api/v1/files?q=txt")],
            f"{adapter}, download and search",
        )
        assert reading == []
