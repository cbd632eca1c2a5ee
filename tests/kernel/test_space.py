"""Uploads in progress count against the capacity, over all processes of a node, until they or their process end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import StorageFull, Unavailable
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.spi import PIECE
from artstore.upload import Session
from artstore_local.writer import LocalWriter
from support import servers
from support.uploads import BY, upload

Open = Callable[..., Node]
CAPACITY = 4 * PIECE

OTHER_PROCESS = """
import sys, pathlib
from artstore.host.boot import open_default
from support.uploads import BY
node = open_default(pathlib.Path(sys.argv[1]))
session = node.kernel.begin(BY, filename="a", size=int(sys.argv[2]))
print("reserved", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Open]:
    """Opens elements over one home, as several workers do."""
    home = tmp_path / "home"
    servers.prepare(home)
    with ExitStack() as opened:

        def open_one(**limits: str) -> Node:
            settings = {"ARTSTORE_LIMITS__MIN_FREE": "0", "ARTSTORE_LIMITS__CAPACITY": str(CAPACITY)}
            settings |= {f"ARTSTORE_LIMITS__{name.upper()}": value for name, value in limits.items()}
            node = open_node(load(home=home, environ=settings))
            opened.callback(node.close)
            return node

        yield open_one


def begin(node: Node, size: int | None, name: str = "a") -> Session:
    return node.kernel.begin(BY, filename=name, size=size)


def reserved_files(node: Node) -> list[str]:
    directory = node.configuration.home / "state" / "space"
    return sorted(p.name for p in directory.iterdir() if p.name != "used") if directory.is_dir() else []


def refusal(node: Node, size: int) -> StorageFull:
    with pytest.raises(StorageFull) as refused:
        begin(node, size)
    return refused.value


def test_two_workers_promise_the_same_room_to_two_uploads(open_one: Open) -> None:
    one, other = open_one(), open_one()
    first = begin(one, CAPACITY - 10)
    assert one.kernel.usage().reserved == other.kernel.usage().reserved == CAPACITY - 10
    # It passes by itself once the first upload has ended: the caller is told to come again.
    for node in (one, other):
        assert refusal(node, 11).retry_after
        node.kernel.space.require_some()  # the stored files leave room: the element is not full
    begin(other, 10).abort()
    first.write(bytes(CAPACITY - 10))
    first.commit()
    assert other.kernel.usage().reserved == 0
    upload(other.kernel, b"1234567890")
    # Now it is the files that need the room: to come again brings nothing.
    assert refusal(one, 1).retry_after is None
    for node in (one, other):
        with pytest.raises(StorageFull):
            node.kernel.health()["space"]()


def test_an_upload_that_ends_without_a_file_keeps_its_room(open_one: Open) -> None:
    node = open_one()
    begin(node, CAPACITY).abort()
    cut = begin(node, CAPACITY)
    cut.write(b"abc")
    with pytest.raises(Exception, match="ended after 3 of"):
        cut.commit()
    wrong = begin(node, 3)
    wrong.write(b"abc")
    with pytest.raises(Exception, match="sha-256"):
        wrong.commit(sha256=["0" * 64])
    assert node.kernel.usage().reserved == 0
    with pytest.raises(Exception, match="filename"):
        begin(node, CAPACITY, name="")
    begin(node, CAPACITY).abort()


def test_a_dead_process_keeps_the_room_of_its_uploads(open_one: Open) -> None:
    node = open_one()
    command = [sys.executable, "-c", OTHER_PROCESS, str(node.configuration.home), str(CAPACITY)]
    environment = os.environ | {
        "ARTSTORE_LIMITS__CAPACITY": str(CAPACITY), "ARTSTORE_LIMITS__MIN_FREE": "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "reserved\n"
        assert refusal(node, 1).retry_after
        assert len(reserved_files(node)) == 1
        other.send_signal(signal.SIGKILL)
    begin(node, CAPACITY).abort()
    assert len(reserved_files(node)) == 1  # of this process
    node.kernel.space.close()
    assert reserved_files(node) == []


def test_bodies_of_unknown_length_share_the_room(open_one: Open) -> None:
    one, other = open_one(), open_one()
    first, second = begin(one, None), begin(other, None)
    first.write(bytes(2 * PIECE))
    second.write(bytes(PIECE))
    with pytest.raises(StorageFull) as refused:
        second.write(bytes(2 * PIECE))
    assert refused.value.retry_after
    first.write(bytes(2 * PIECE))  # that of the second is free again
    assert first.commit()[0].size == CAPACITY
    assert one.kernel.usage().reserved == 0


def test_the_last_bytes_of_the_capacity_can_be_used_without_a_length(open_one: Open) -> None:
    node = open_one(capacity="100")
    assert upload(node.kernel, bytes(99)).size == 99
    assert upload(node.kernel, b"x").size == 1
    with pytest.raises(StorageFull):
        upload(node.kernel, b"x")


def test_without_an_index_the_capacity_is_lifted(open_one: Open) -> None:
    node = open_one(capacity="100")
    upload(node.kernel, bytes(60))
    with node.kernel.index.backlog.repairing():
        with pytest.raises(Unavailable):
            node.kernel.usage()
        assert refusal(node, 41).retry_after is None
        upload(node.kernel, bytes(30))
        assert refusal(node, 11).retry_after is None
    assert node.kernel.usage().size == 90
    upload(node.kernel, bytes(10))


def test_another_node_filled_the_capacity_meanwhile(open_one: Open) -> None:
    """It shows only in the index: the check before the commit holds."""
    narrow, wide = open_one(), open_one(capacity=str(2 * CAPACITY))
    session = begin(narrow, CAPACITY)
    session.write(bytes(CAPACITY))
    upload(wide.kernel, b"x")
    with pytest.raises(StorageFull) as refused:
        session.commit()
    assert refused.value.retry_after is None
    assert narrow.kernel.usage().files == 1


def test_uploads_without_a_capacity_cost_more(tmp_path: Path) -> None:
    servers.prepare(tmp_path / "home")
    node = open_node(load(home=tmp_path / "home", environ={}))
    try:
        upload(node.kernel)
        assert not (tmp_path / "home" / "state" / "space").exists()
    finally:
        node.close()


def test_a_quota_that_no_free_bytes_show_is_said_nowhere(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, write = open_one(), LocalWriter.write

    def refuse(*_: Any) -> None:
        raise StorageFull("The quota of this user is used up.")

    monkeypatch.setattr(LocalWriter, "write", refuse)
    with pytest.raises(StorageFull):
        upload(node.kernel)
    with pytest.raises(StorageFull, match="quota"):
        node.kernel.health()["space"]()
    monkeypatch.setattr(LocalWriter, "write", write)
    upload(node.kernel)
    node.kernel.health()["space"]()


def test_a_file_larger_than_the_store_can_hold_counts_as_an_outage(tmp_path: Path) -> None:
    """Python ignores SIGXFSZ: the write fails with EFBIG."""
    servers.prepare(tmp_path / "home")
    program = (
        "import resource, sys, pathlib; from artstore.host.boot import open_default;"
        "from artstore.errors import TooLarge; from support.uploads import BY, upload\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))\n"
        "node = open_default(pathlib.Path(sys.argv[1]))\n"
        "for size in ((8 << 20) + 1, 9 << 20):\n"
        "    try: node.kernel.begin(BY, filename='a', size=size)\n"
        "    except TooLarge: print('refused')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 8 << 20))\n"
        "try: upload(node.kernel, bytes(4 << 20))\n"
        "except TooLarge: print('refused')\n"
        "upload(node.kernel, bytes(1 << 20))\n"
        "print(node.kernel.usage().files)\n"
        "node.close()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "home")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert run.stdout.split() == ["refused", "refused", "refused", "1"], run.stderr
