"""A program of the fork server: every system call of one request fails once, with every error it can have.

The requests go over HTTP without a socket, as an adapter would hand them on. For each call n that the request makes,
and each error: the request with that fault, a look at the store, and the same request again without a fault. The
report has a line for each fault, and a last one with the number of calls and the id of the oldest file.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from artstore import background
from artstore.errors import ArtstoreError
from artstore.host.boot import Node, open_default
from artstore_http.app import App
from artstore_http.message import Request
from artstore_jwt import keys
from support import reports
from support.faults import Faults


class Client:
    """Sends requests to an element of this process, and opens and closes that element."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.open()

    def open(self) -> None:
        self.node: Node = open_default(self._home)
        self._app = App(self.node, "starlette")
        self._token = self.node.auth.issue(user="ivanov", roles=["admin"], seconds=3600)  # type: ignore[attr-defined]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        path, _, query = path.partition("?")
        fields = [("host", "x"), ("authorization", f"Bearer {self._token}")]
        if body is not None:
            fields.append(("content-length", str(len(body))))
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        request = Request(method=method, path=path, query=query, headers=fields, detects_cut_chunks=True)
        exchange = self._app.begin(request)
        for piece in (body[:5], body[5:]) if body else ():
            exchange.feed(piece)
        answer = exchange.collect()
        assert isinstance(answer.body, bytes)
        try:
            content = json.loads(answer.body)
        except ValueError:
            content = None
        return answer.status, content, {name.lower(): value for name, value in answer.headers}

    def run_background(self) -> None:
        """Do what the background thread does every few seconds."""
        self.node.kernel.background.drain()
        self.node.kernel.background.recover()


def leftovers(home: Path) -> list[str]:
    """Return the names in the store that no finished change leaves: halves of files, and what is staged."""
    files = home / "files"
    found = []
    for path in files.rglob("*"):
        name = path.relative_to(files)
        if not path.is_file():
            continue
        if name.parts[0] == ".artstore":
            is_left = name.parts[1] == "staging" and path.name != "lock"
        elif path.name.endswith(".attr.json"):
            is_left = not path.with_name(path.name.removesuffix(".attr.json")).exists()
        else:
            is_left = not path.with_name(path.name + ".attr.json").exists()
        if is_left:
            found.append(str(name))
    return found


def request(client: Client, script: str, n: int, old: str) -> tuple[int, Any, dict[str, str]]:
    path = f"/api/v1/files/{old}"
    if script == "upload":
        return client.ask("POST", f"/api/v1/files?filename=new-{n}.txt", b"0123456789" * 3)
    if script == "update":
        merge = {"content_type": "application/merge-patch+json"}
        return client.ask("PATCH", path, json.dumps({"description": str(n)}).encode(), **merge)
    if script == "delete":
        return client.ask("DELETE", path)
    if script == "read":
        return client.ask("GET", f"{path}/download")
    if script == "mode":
        body = json.dumps({"target_mode": requested_mode(n), "confirm": True, "reason": ""}).encode()
        return client.ask("POST", "/api/v1/mode/transition", body, content_type="application/json")
    assert script == "background"
    kernel = client.node.kernel
    status = 200
    for step in (kernel.background.drain, kernel.background.recover, kernel.background.flush):
        try:
            step()
        except ArtstoreError as e:
            status = 507 if e.code == "storage-full" else 503
    return status, None, {"retry-after": "5"} if status == 503 else {}


def requested_mode(n: int) -> str:
    """Return the mode that the n-th request asks for: there and back."""
    return "ro" if n % 2 else "rw"


def prepare() -> None:
    """Answer a request, so that no child has to import and to compile."""
    background.INTERVAL = background.RETRY_MIN = 1e6  # what the thread does is a script of its own
    keys._RECENT_NS = 1 << 62  # how many calls a request makes must not depend on the age of the keys
    with tempfile.TemporaryDirectory() as home:
        client = Client(Path(home))
        client.ask("POST", "/api/v1/files?filename=a.txt", b"content")
        client.node.close()


def run(home: str, mode: str, script: str, every: int, report: str) -> None:
    """Try every `every`-th call, from a random one of the first."""
    os.environ |= {"ARTSTORE_MODE": mode, "ARTSTORE_LIMITS__MIN_FREE": "0"}
    client = Client(Path(home))
    old = client.ask("POST", "/api/v1/files?filename=old.txt", b"old")[1]["file_id"]
    client.node.close()
    faults = Faults()
    client.open()
    n, kind, number = 1 + random.randrange(every), 0, 0
    while True:
        number += 1
        if script in ("delete", "background"):
            old = client.ask("POST", "/api/v1/files?filename=victim.txt", b"victim")[1]["file_id"]
        if script == "background":
            client.ask("DELETE", f"/api/v1/files/{old}")
        before = client.ask("GET", f"/api/v1/files/{old}")[1]
        faults.arm(n, kind)
        status, content, headers = request(client, script, number, old)
        faults.disarm()
        if faults.hit is None:
            break
        call, error = faults.hit
        line = {"n": n, "call": call, "error": error, "status": status, "content": content}
        line |= {"retry_after": headers.get("retry-after"), "leftovers": leftovers(Path(home))}
        client.run_background()
        line |= {"before": before, "after": client.ask("GET", f"/api/v1/files/{old}")[:2]}
        line |= {"repeated": request(client, script, number, old)[0], "resynced": faults.resynced}
        line |= {"search": client.ask("GET", "/api/v1/files?limit=1000")[0]}
        line |= {"ready": client.ask("GET", "/health/ready")[:2]}
        if call in ("fsync", "fdatasync") or error == "EROFS":
            client.node.close()  # a second failure within ten minutes is another case
            faults.forget_syncs()
            client.open()
            # What a closed store refused is done now, so the next request makes the same calls as the last one.
            line |= {"reopened": request(client, script, number, old)[0]}
        line |= {"mode": client.ask("GET", "/api/v1/info")[1]["mode"], "requested": requested_mode(number)}
        reports.write(report, line)
        kind += 1
        if kind >= faults.kinds:
            n, kind = n + every, 0
    client.node.close()
    client.open()
    client.node.close()
    reports.write(report, {"calls": n - 1, "old": old})
