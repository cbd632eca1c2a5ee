"""Every state in which a request to S3 can be when its writer dies or comes late: nothing lost, torn or left over.

Each case: one request of an upload, an update or a deletion is meddled with by a proxy; the writer is killed there,
or stopped while another node, that takes it for dead, settles what its log tells; then it goes on, and so does the
request. A long run tries all of them; a usual one a part, another part each day.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import NotFound
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.spi import Query
from support import s3, servers
from support.forkserver import ForkServer
from support.late_writers import DATA, SMALL
from support.long_runs import usual_or_long
from support.proxies import HttpProxy
from support.servers import until
from support.uploads import content

STATES = ("not applied", "applied", "reply lost", "twice", "late")
WRITERS = ("dead", "late")
STEPS = ("small", "large", "update", "delete")
PART = 12
"""In a usual run, one case of so many is tried, another each day; in a long run each."""
OURS = {"element.json", "checkpoint.json", "conditions", "probe"}


class Case:
    """One store, one writer, one request."""

    def __init__(self, place: Path, server: s3.Seaweed, bucket: str) -> None:
        self.place = place
        self.server = server
        self.bucket = bucket
        self.prefix = f"c{secrets.token_hex(4)}"
        self.home = place / "home"
        self.told = place / "told"
        self.outcome: dict[str, Any] = {}
        place.mkdir()
        servers.prepare(self.home)

    def configure(self, home: Path, port: int, retention: float = 86_400) -> None:
        backend = s3.settings(
            self.server, self.bucket, prefix=self.prefix, tombstone_retention=retention, deadline=20
        )
        backend["endpoint_url"] = f"http://127.0.0.1:{port}"
        lines = [f"{name} = {json.dumps(value)}" for name, value in backend.items()]
        (home / "artstore.toml").write_text(
            "\n".join(['element_id = "se-01"', '[backend]\nuse = "s3"\n[backend.s3]', *lines])
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []

    def open(self, home: Path, retention: float = 86_400) -> Node:
        self.configure(home, self.server.port, retention)
        return open_node(load(home=home, environ={}))

    def neighbour(self, name: str) -> Path:
        """A home with the log of the writer and no cache: another node that reads the same log."""
        home = self.place / name
        servers.prepare(home)
        shutil.copytree(self.home / "state" / "wal", home / "state" / "wal")
        return home


def run(case: Case, writers: ForkServer, step: str, number: int, state: str, writer: str) -> str | None:
    """The request that was caught; None when the step has fewer."""
    proxy = HttpProxy(case.server.port)
    case.configure(case.home, proxy.port)
    gate = case.place / "gate"
    os.mkfifo(gate)
    errors = Path(f"{case.told}.err")
    child = writers.fork(errors, home=str(case.home), gate=str(gate), told=str(case.told), step=step)
    pid = child.pid
    try:
        until(lambda: case.lines() or _gone(pid), "the writer is ready")
        assert case.lines(), errors.read_text()
        proxy.catch(number, state)
        gate.open("wb").close()
        until(lambda: proxy.caught or len(case.lines()) > 1, "a request or the end")
        if proxy.caught is None:
            return None
        assert proxy.arrived(30)
        caught = proxy.caught
        if writer == "dead":
            os.kill(pid, signal.SIGKILL)
            until(lambda: _gone(pid), "the writer is dead")
        else:
            os.kill(pid, signal.SIGSTOP)
            until(lambda: _state(pid) == "T", "the writer stands still")
        outcomes = _outcomes_after_recovery(case)
        caught.release.set()
        assert caught.over.wait(60)
        if (
            "rolled_back" in outcomes
            and state == "late"
            and caught.line.startswith("PUT")
            and _decides(caught.line)
        ):
            assert caught.status in (409, 412), f"{caught.line}: rolled back, then carried out"
        if writer == "late":
            os.kill(pid, signal.SIGCONT)
            until(lambda: len(case.lines()) > 1 or _gone(pid), "the writer comes to an end")
        else:
            proxy.close()
        case.outcome = {k: v for line in case.lines() for k, v in line.items()}
        return caught.line
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait(30)
        proxy.close()


def _outcomes_after_recovery(case: Case) -> list[str]:
    """Another node takes the writer for dead; what it makes of the updates and deletions that it had begun."""
    home = case.neighbour("second")
    case.open(home).close()
    found = case.open(home)
    try:
        return [
            t.status
            for t in found.kernel.transactions(status=None, limit=9, before=None)
            if t.operation != "upload"
        ]
    finally:
        found.close()


def _decides(line: str) -> bool:
    """Whether the request is for a sidecar, in its place."""
    return ".attr.json" in line and ".artstore/" not in line


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def _gone(pid: int) -> bool:
    return _state(pid) in ("gone", "Z", "X")


def check(case: Case, step: str) -> None:
    """After recovery and retention: what was acknowledged is true, and nothing is there by half."""
    outcome = case.outcome
    node = case.open(case.neighbour("third"), retention=0.5)
    try:
        file_id = outcome.get("done") or outcome.get("ready")
        listed = {attr.file_id: attr for attr in node.kernel.search(Query()).items}
        names = _names(case)
        pairs = {n for n in names if not n.endswith(".attr.json")}
        assert {n for n in names if n.endswith(".attr.json")} == {f"{n}.attr.json" for n in pairs}, names
        assert len(pairs) == len(listed) <= 1, (names, listed)
        for found, row in listed.items():
            data = DATA.get(step, SMALL)
            attr = node.kernel.attr(found)
            assert content(node.kernel, found) == data, "torn"
            assert attr.sha256 == hashlib.sha256(data).hexdigest()
            assert attr.description == row.description
            if step == "update":
                assert attr.description in ("old", "new")
                assert attr.description == "new" or "done" not in outcome, "a lost update"
        if "done" in outcome:
            assert (file_id in listed) == (step != "delete"), "lost, or back again"
        if step == "update":
            assert file_id in listed
        if file_id is not None and file_id not in listed:
            with pytest.raises(NotFound):
                node.kernel.attr(file_id)
    finally:
        node.close()


def _names(case: Case) -> set[str]:
    """Every object of the store that is not the element's own; no parts of anything on the way."""
    client = case.server.client
    assert not client.list_multipart_uploads(Bucket=case.bucket, Prefix=case.prefix).get("Uploads")
    page = client.list_objects_v2(Bucket=case.bucket, Prefix=f"{case.prefix}/")
    names = {found["Key"].removeprefix(f"{case.prefix}/") for found in page.get("Contents", ())}
    return names - {f".artstore/{name}" for name in OURS}


@pytest.fixture(scope="module")
def writers() -> Iterator[ForkServer]:
    made = ForkServer("support.late_writers")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@usual_or_long("full", False, True)
@pytest.mark.parametrize("step", STEPS)
def test_each_request_in_each_state(
    step: str,
    full: bool,
    tmp_path: Path,
    s3_server: s3.Seaweed,
    writers: ForkServer,
    tried: Callable[[str], None],
) -> None:
    bucket = s3_server.bucket()
    today = datetime.datetime.now(datetime.UTC).toordinal()
    cases: list[tuple[Case, str]] = []
    acknowledged: Counter[str] = Counter()
    number = count = 0
    while True:
        number += 1
        requests = 0
        for state in STATES:
            for writer in WRITERS:
                count += 1
                # The first of each request is always tried: it tells when there are no more.
                fenced = state == "late" and writer == "late" and step in ("update", "delete")
                if not full and requests and not fenced and (count + today) % PART:
                    continue
                case = Case(tmp_path / f"{number}-{state.replace(' ', '-')}-{writer}", s3_server, bucket)
                caught = run(case, writers, step, number, state, writer)
                if caught is None:
                    break
                requests += 1
                acknowledged[writer] += "done" in case.outcome
                cases.append((case, f"{step}: request {number} ({caught}), {state}, writer {writer}"))
            else:
                continue
            break
        if not requests:
            break
    for case, _ in cases:
        case.open(case.home).close()  # the writer's own restart
    time.sleep(1.1)  # ages are whole seconds: after this everything is older than the retention
    for case, what in cases:
        try:
            check(case, step)
        except BaseException as e:
            raise AssertionError(f"{what}: {case.outcome}: {e}") from e
    tried(
        f"{step}: {number - 1} requests, {len(cases)} cases, {acknowledged['late']} acknowledged by late writers: "
        "0 lost, 0 torn, 0 left over"
    )
