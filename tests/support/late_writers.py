"""A program of the fork server: writers on S3 that die or come late.

A child opens the element, writes to the file `told` that it is ready, waits until another process opens the FIFO
`gate`, takes its step and writes to `told` what came of it. Then it waits to be killed.
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
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


def run(home: str, gate: str, told: str, step: str) -> None:
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


def prepare() -> None:
    """Do everything once, so that no child has to import and to compile."""
    botocore.session.create_loader = cache(
        botocore.session.create_loader
    )  # what S3 is: read before any child is born
    botocore.session.get_session().create_client("s3", "us-east-1").close()
    with tempfile.TemporaryDirectory() as home:
        node = open_node(load(home=Path(home), environ={}))
        take(node.kernel, "update", file_id := upload(node.kernel, SMALL))
        take(node.kernel, "delete", file_id)
        node.close()
    boot.open_registry = lambda _settings: node.registry
