"""Writers that die or come late: forked from one process that has imported everything and opened nothing.

    python late.py

A line of JSON a birth, in: {"home", "gate", "told", "step"}, out: the process id. The child opens the element, says
so in `told`, waits until somebody opens the FIFO `gate`, takes its step and tells what came of it.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session

import artstore_s3.backend  # noqa: F401 - so that no child has to import it
from artstore.errors import ArtstoreError
from artstore.host import boot
from artstore.host.boot import open_node
from artstore.host.settings import load
from artstore.kernel import Kernel
from artstore.spi import SCOPES, Principal
from crash.statements import share

BY = Principal(id="u-1", name="ivanov", scopes=SCOPES)
SMALL = b"small and whole" * 50
LARGE = random.Random(9).randbytes((8 << 20) + 4321)
DATA = {"small": SMALL, "large": LARGE}


def upload(kernel: Kernel, data: bytes) -> str:
    """A file; its id."""
    session = kernel.begin(BY, filename="report.bin")
    for at in range(0, len(data), 1 << 20):
        session.write(data[at : at + (1 << 20)])
    return session.commit(description="old")[0].file_id


def take(kernel: Kernel, step: str, file_id: str | None) -> str:
    if step in DATA:
        return upload(kernel, DATA[step])
    assert file_id is not None
    if step == "update":
        kernel.update(BY, file_id, lambda _: {"description": "new"})
    else:
        kernel.delete(BY, file_id, lambda _: None)
    return file_id


def live(home: str, gate: str, told: str, step: str) -> None:
    def tell(**what: Any) -> None:
        with open(told, "a", encoding="utf-8") as sink:
            sink.write(json.dumps(what) + "\n")

    node = open_node(load(home=Path(home), environ={}))
    file_id = None if step in DATA else upload(node.kernel, SMALL)
    tell(ready=file_id)
    with open(gate, "rb") as opened:
        opened.read()
    try:
        tell(done=take(node.kernel, step, file_id))
    except ArtstoreError as e:
        tell(failed=f"{type(e).__name__}: {e.detail}")
    signal.pause()


def rehearse() -> None:
    """Do everything once, so that no child has to import and to compile; no thread outlives this."""
    botocore.session.create_loader = cache(
        botocore.session.create_loader
    )  # what S3 is: read before any child is born
    botocore.session.get_session().create_client("s3", "us-east-1").close()
    share()
    with tempfile.TemporaryDirectory() as home:
        node = open_node(load(home=Path(home), environ={}))
        take(node.kernel, "update", file_id := upload(node.kernel, SMALL))
        take(node.kernel, "delete", file_id)
        node.close()
    boot.open_registry = lambda _settings: node.registry
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()


def main() -> None:
    rehearse()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sink = os.open(json.loads(line)["told"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(sink, 2)
            os.dup2(sink, 1)
            try:
                live(**json.loads(line))
            finally:
                import traceback

                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
