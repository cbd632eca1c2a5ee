"""How long a start takes with many files: a synthetic store, filled without the server, started again and again.

    python bench/many_files.py --place /dev/shm/many --files 1000 100000 1000000

For each number: the files are written (a year's hours, or with --one-hour the hour that is now), one start fills the
cache from them, and then are measured: a start after a clean stop, a start after kill -9 of a node that had uploads
in progress, and the same through `artstore recover`, interpreter and all. Each line shows what recovery did, whether
the index was rebuilt, and whether SQLite read the whole cache (`quick_check`). Needs about 3 KiB and two inodes a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from artstore.attr import timestamp
from artstore.host.boot import open_default
from artstore.ids import uuid7
from artstore.spi import SCOPES, Principal
from artstore_naming.dated import DatedNaming

BY = Principal(id="1", name="bench", scopes=SCOPES)
DATA = b"x"
SAMPLE = {
    "schema_version": 1,
    "size": len(DATA),
    "content_type": "application/octet-stream",
    "sha256": hashlib.sha256(DATA).hexdigest(),
    "uploaded_by": "bench",
    "uploaded_by_id": "1",
    "revision": 1,
    "description": "",
    "tags": [],
    "metadata": {},
}


def write_files(root: Path, number: int, *, one_hour: bool) -> None:
    """Write data and sidecars as uploads would have left them."""
    naming = DatedNaming(DatedNaming.Settings(), None)  # type: ignore[arg-type]
    end = datetime.now(UTC) - timedelta(hours=0 if one_hour else 3)
    hours = 1 if one_hour else 8760
    made: set[str] = set()
    for n in range(number):
        at = end - timedelta(hours=n * hours // number, seconds=n % 60 if not one_hour else 0)
        file_id = uuid7(at)
        name = naming.name(file_id=file_id, original_filename=f"{n}.bin", username="bench", at=at)
        if name.directory not in made:
            (root / name.directory).mkdir(parents=True, exist_ok=True)
            made.add(name.directory)
        sidecar = SAMPLE | {
            "file_id": file_id,
            "original_filename": f"{n}.bin",
            "storage_filename": name.filename,
            "storage_path": name.directory,
            "uploaded_at": timestamp(at),
            "updated_at": timestamp(at),
        }
        (root / name.key).write_bytes(DATA)
        (root / f"{name.key}.attr.json").write_text(json.dumps(sidecar))


class Messages(logging.Handler):
    """Keeps what the cache logs."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def timed_start(home: Path) -> str:
    """Measure the seconds until the element can serve, in a process that has imported everything; return a line."""
    messages = Messages()
    log = logging.getLogger("artstore.sql")
    log.addHandler(messages)
    started = time.perf_counter()
    node = open_default(home)
    took = time.perf_counter() - started
    node.close()
    log.removeHandler(messages)
    rebuilt = "rebuilt" if node.report.rebuilt else "kept"
    checked = "quick_check ran" if any("quick_check" in text for text in messages.texts) else "no quick_check"
    return f"{took:.2f} s (index {rebuilt}, {checked}; recovery: {node.report})"


def die_in_uploads(home: Path) -> None:
    """Start a node and kill it: ten uploads are done, three are in progress."""
    child = os.fork()
    if child == 0:
        node = open_default(home)
        for _ in range(10):
            session = node.kernel.begin(BY, filename="done.bin")
            session.write(DATA)
            session.commit()
        for _ in range(3):
            node.kernel.begin(BY, filename="half.bin").write(DATA)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--place", type=Path, required=True, help="a directory to make, use and remove")
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument(
        "--one-hour", action="store_true", help="all files are of this hour: a load that just ended"
    )
    args = parser.parse_args()
    for number in args.files:
        home: Path = args.place
        open_default(home).close()
        started = time.perf_counter()
        write_files(home / "files", number, one_hour=args.one_hour)
        print(f"{number:>9} files written in {time.perf_counter() - started:.1f} s")
        shutil.rmtree(home / "state")
        print("          first start, filling the cache: " + timed_start(home))
        print("          after a clean stop:             " + timed_start(home))
        die_in_uploads(home)
        print("          after kill -9:                  " + timed_start(home))
        die_in_uploads(home)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "artstore_cli", "recover", "--home", str(home)], check=True)
        print(f"          after kill -9, as a command:    {time.perf_counter() - started:.2f} s", flush=True)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
