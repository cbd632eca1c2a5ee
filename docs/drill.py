#!/usr/bin/env python3
"""The drill: is `files/` really all there is? Needs nothing but an installed artstore.

    python docs/drill.py                     makes an element, fills it, kills it with SIGKILL
    python docs/drill.py --home /srv/store   takes yours: reads it, changes nothing; let nobody write meanwhile

Then `files/` is copied to a home that has nothing else, an element is started there, and every answer of the one is
compared with the other's, field for field: each file's metadata and bytes, lists in every order, searches, what is
not there. Exit code 0: no answer differs; 1: some do, and they are shown.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

ARTSTORE = [sys.executable, "-m", "artstore_cli"]
SORTS = tuple(
    sign + by for by in ("uploaded_at", "updated_at", "original_filename", "size") for sign in ("", "-")
)
OF_THE_REQUEST = {"date", "x-request-id", "connection", "server"}
"""Headers that tell nothing of a file."""

Answer = tuple[int, dict[str, str], bytes]
Answers = dict[str, Any]


class Element:
    """A served element, and the right to ask it."""

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.home, self.port, self.process = home, port, process
        issue = [
            *ARTSTORE,
            "token",
            "--home",
            str(home),
            "--user",
            "drill",
            "--role",
            "admin",
            "--ttl",
            "86400",
        ]
        self.token = subprocess.run(issue, check=True, capture_output=True, text=True).stdout.strip()

    def ask(
        self, method: str, target: str, body: bytes = b"", content_type: str = "application/json"
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            kept = {n.lower(): v for n, v in answer.getheaders() if n.lower() not in OF_THE_REQUEST}
            return answer.status, kept, answer.read()
        finally:
            connection.close()


@contextmanager
def served(home: Path, *, stop: signal.Signals = signal.SIGTERM) -> Iterator[Element]:
    """Serve a home while the block runs, then end all of its processes by `stop`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes to it
    serve = [*ARTSTORE, "serve", "--home", str(home), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(serve, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                time.sleep(0.05)
        else:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace"))
        yield Element(home, port, process)
    finally:
        if stop == signal.SIGKILL:
            os.killpg(process.pid, stop)
        else:
            process.send_signal(stop)
        process.wait()


def fill(element: Element) -> list[str]:
    """Files of all kinds, some changed, some deleted; the ids of the deleted."""
    names = [
        "report.pdf",
        "отчёт за год.txt",
        "日本語.png",
        "a'b\"c;d.csv",
        "no extension",
        "x" * 190 + ".tar.gz",
    ]
    ids = []
    for n in range(60):
        name = f"{n}-{names[n % len(names)]}"
        body = hashlib.sha256(str(n).encode()).digest() * (n * n)
        fields = {
            "description": f"№ {n}",
            "tags": json.dumps([f"t{n % 3}", "all"]),
            "metadata": json.dumps({"n": n}),
        }
        form = b"".join(
            b'--cut\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (k.encode(), v.encode())
            for k, v in fields.items()
        )
        shown = name.replace('"', "%22").encode()
        form += b'--cut\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % shown
        form += body + b"\r\n--cut--\r\n"
        status, _, told = element.ask("POST", "/api/v1/files", form, "multipart/form-data; boundary=cut")
        assert status == 201, told
        ids.append(json.loads(told)["file_id"])
    for n, file_id in enumerate(ids):
        if n % 4 == 1:
            patch = json.dumps({"description": f"changed {n}", "metadata": {"changed": True}}).encode()
            assert (
                element.ask("PATCH", f"/api/v1/files/{file_id}", patch, "application/merge-patch+json")[0]
                == 200
            )
    gone = ids[::7]
    for file_id in gone:
        assert element.ask("DELETE", f"/api/v1/files/{file_id}")[0] == 204
    return gone


def pages(element: Element, query: str) -> list[Any]:
    """All items that a query finds, page by page."""
    items: list[Any] = []
    cursor = ""
    while True:
        status, _, body = element.ask("GET", f"/api/v1/files?limit=1000&{query}{cursor}")
        assert status == 200, body
        page = json.loads(body)
        items += page["items"]
        if not page["next_cursor"]:
            return items
        cursor = "&cursor=" + quote(page["next_cursor"])


def answers(element: Element, gone: list[str]) -> Answers:
    """What this element says to everything that is asked of it here."""
    found: Answers = {f"list by {sort}": pages(element, f"sort={sort}") for sort in SORTS}
    files = found["list by uploaded_at"]
    for file in files:
        at = f"/api/v1/files/{file['file_id']}"
        found[f"metadata of {file['file_id']}"] = element.ask("GET", at)
        status, headers, body = element.ask("GET", f"{at}/download")
        found[f"bytes of {file['file_id']}"] = status, headers, hashlib.sha256(body).hexdigest()
        assert hashlib.sha256(body).hexdigest() == file["sha256"], f"{at}: not the bytes that were uploaded"
    words = {w for f in files[:50] for w in (f["original_filename"][:20], f["description"][:20]) if w.strip()}
    for word in sorted(words):
        found[f"search for {word!r}"] = pages(element, f"q={quote(word)}")
    for name in ("uploaded_by", "content_type", "sha256"):
        for value in sorted({f[name] for f in files[:50]}):
            found[f"{name} {value!r}"] = pages(element, f"{name}={quote(value)}")
    for tag in sorted({t for f in files[:50] for t in f["tags"]}):
        found[f"tag {tag!r}"] = pages(element, f"tag={quote(tag)}")
    for file_id in gone:
        found[f"the deleted {file_id}"] = element.ask("GET", f"/api/v1/files/{file_id}")[0]
    found["info"] = json.loads(element.ask("GET", "/api/v1/info")[2])
    capacity = json.loads(element.ask("GET", "/api/v1/capacity")[2])
    found["number and size of the files"] = capacity["file_count"], capacity["used"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Start a copy of files/ without any state, and compare every answer."
    )
    parser.add_argument("--home", type=Path, help="an element of yours (one is made)")
    home = parser.parse_args().home
    with tempfile.TemporaryDirectory(
        prefix="artstore-drill-", dir=home.resolve().parent if home else None
    ) as place:
        gone: list[str] = []
        if home is None:
            home = Path(place) / "made"
            with served(home, stop=signal.SIGKILL) as element:
                gone = fill(element)
                before = answers(element, gone)
            print(f"made and filled {home}, then killed it with SIGKILL")
        else:
            with served(home) as element:
                before = answers(element, gone)
            print(f"read all of {home}")
        copy = Path(place) / "copy"
        shutil.copytree(home / "files", copy / "files", symlinks=True)
        print(f"copied files/ to {copy}, which has nothing else")
        started = time.monotonic()
        with served(copy) as element:
            print(f"started there within {time.monotonic() - started:.1f} s")
            after = answers(element, gone)
    differ = [what for what in before.keys() | after.keys() if before.get(what) != after.get(what)]
    for what in sorted(differ)[:20]:
        print(f"DIFFERS: {what}\n  before  {before.get(what)}\n  after   {after.get(what)}")
    print(f"{len(before['list by uploaded_at'])} files, {len(before)} answers compared, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
