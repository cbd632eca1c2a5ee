"""Lets every call of a change fail once, with every error it can have, and says what the client and the store saw.

    python failing.py <home> <script> <id> [every]

Over HTTP without a socket: what an adapter would send. For each call n that the request makes of the system, and each
error: the request with that fault, a look at the store, and the same request again without one. A line of JSON a
fault. `every`: only each n-th call, from a different one each run.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artstore import background
from artstore.errors import ArtstoreError
from artstore.host.boot import Node, open_default
from artstore.spi import SCOPES, Principal
from artstore_http.app import App
from artstore_http.message import Request, Response
from artstore_jwt import keys
from artstore_local import disk

BY = Principal(id="1", name="ivanov", scopes=SCOPES)
SHORT = -1
FULL = (errno.ENOSPC, errno.EDQUOT)
_MAKES = (errno.EIO, *FULL)
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EIO, errno.EMFILE, *FULL),
    "write": (errno.EIO, SHORT, *FULL),
    "pwrite": (errno.EIO, *FULL),
    "fsync": (errno.EIO, errno.EROFS, *FULL),
    "fdatasync": (errno.EIO, *FULL),
    "rename": (*_MAKES, errno.EROFS),
    "renameat2": _MAKES,
    "mkdir": _MAKES,
    "link": _MAKES,
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
    "ftruncate": (errno.EIO,),
    "stat": (errno.EIO,),
    "lstat": (errno.EIO,),
    "statvfs": (errno.EIO,),
    "read": (errno.EIO,),
    "pread": (errno.EIO,),
    "listdir": (errno.EIO, errno.EMFILE),
    "scandir": (errno.EIO, errno.EMFILE),
    "flock": (errno.EIO,),
    "posix_fallocate": (errno.EIO, *FULL),
}


class Faults:
    """Between the store and the system. One call, the `at`-th since `arm`, fails with its `kind`-th error."""

    def __init__(self, within: Path | None = None) -> None:
        """`within`: calls that touch anything else are not counted."""
        self._within = None if within is None else str(within)
        self._lock = threading.Lock()
        self._real = {name: getattr(os, name) for name in ERRORS if hasattr(os, name)}
        self._at = self._kind = self._count = 0
        self.hit: tuple[str, int] | None = None
        self.kinds = 1
        self._births: dict[int, int] = {}
        self._poisoned: set[tuple[int, int]] = set()
        self.again: list[str] = []
        """Files that were fsynced after an fsync of theirs had failed."""
        for name, real in self._real.items():
            setattr(os, name, self._wrapped(name, real))
        fcntl.flock = self._wrapped("flock", fcntl.flock)  # type: ignore[assignment]
        builtins.open = io.open = self._wrapped("open", builtins.open)
        assert disk._renameat2 is not None
        self._renameat2 = disk._renameat2
        disk._renameat2 = self._wrapped("renameat2", disk._renameat2)  # type: ignore[assignment]

    def arm(self, at: int, kind: int) -> None:
        self._at, self._kind, self._count, self.hit, self.kinds = at, kind, 0, None, 1

    def disarm(self) -> None:
        self._at = 0

    def reborn(self) -> None:
        """What comes now is another process, which cannot know what failed in this one."""
        with self._lock:
            self._poisoned.clear()

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            error = self._due(name) if self._counts(name, args, kwargs) else None
            if name in ("fsync", "fdatasync"):
                self._watch(args[0], error)
            if error == SHORT:
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            if error is not None and name == "renameat2":
                disk.ctypes.set_errno(error)
                return -1
            if error is not None:
                raise OSError(error, os.strerror(error))
            done = real(*args, **kwargs)
            if name == "open" and isinstance(done, int) and len(args) > 1 and args[1] & os.O_EXCL:
                with self._lock:
                    number = os.fstat(done).st_ino
                    self._births[number] = self._births.get(number, 0) + 1
            return done

        return called

    def _counts(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self._within is None or not self._at:
            return True
        place = args[0] if args else "."
        where = kwargs.get("src_dir_fd", kwargs.get("dir_fd"))
        if where is None or (isinstance(place, str) and place.startswith("/")):
            where = place.fileno() if hasattr(place, "fileno") else place
        if isinstance(where, int):
            where = os.readlink(f"/proc/self/fd/{where}")
        return os.fsdecode(where).startswith(self._within)

    def _due(self, name: str) -> int | None:
        with self._lock:
            if not self._at:
                return None
            self._count += 1
            if self._count != self._at:
                return None
            self._at = 0
            self.kinds = len(ERRORS[name])
            error = ERRORS[name][min(self._kind, self.kinds - 1)]
            self.hit = (name, error)
            return error

    def _watch(self, fd: int, error: int | None) -> None:
        status = os.fstat(fd)
        if os.path.stat.S_ISDIR(status.st_mode):  # type: ignore[attr-defined]
            return  # its next entry is a change of its own, written anew
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-wal"):
            return  # SQLite makes and removes it, so its number may be another's by now; test_sql_cache looks at it
        with self._lock:
            which = (status.st_ino, self._births.get(status.st_ino, 0))
            if which in self._poisoned:
                self.again.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2])
            if error is not None:
                self._poisoned.add(which)


class Client:
    """Requests as an adapter would hand them on."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.open()

    def open(self) -> None:
        self.node: Node = open_default(self.home)
        self.app = App(self.node, "starlette")
        self.token = self.node.auth.issue(user="ivanov", roles=["admin"], seconds=3600)  # type: ignore[attr-defined]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        path, _, query = path.partition("?")
        fields = [("host", "x"), ("authorization", f"Bearer {self.token}")]
        if body is not None:
            fields.append(("content-length", str(len(body))))
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        request = Request(method=method, path=path, query=query, headers=fields, tells_cut_chunks=True)
        exchange = self.app.begin(request)
        for piece in (body[:5], body[5:]) if body else ():
            exchange.feed(piece)
        answer: Response = exchange.collect()
        assert isinstance(answer.body, bytes)
        try:
            shown = json.loads(answer.body)
        except ValueError:
            shown = None
        return answer.status, shown, {n.lower(): v for n, v in answer.headers}


def litter(home: Path) -> list[str]:
    """What no finished change leaves."""
    files = home / "files"
    found = []
    for path in files.rglob("*"):
        parts = path.relative_to(files).parts
        if not path.is_file() or parts[0] == ".artstore":
            if path.is_file() and parts[1] == "staging" and path.name != "lock":
                found.append("/".join(parts))
        elif path.name.endswith(".attr.json"):
            if not path.with_name(path.name.removesuffix(".attr.json")).exists():
                found.append("/".join(parts))
        elif not path.with_name(path.name + ".attr.json").exists():
            found.append("/".join(parts))
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
        wish = json.dumps({"target_mode": wished(n), "confirm": True, "reason": ""}).encode()
        return client.ask("POST", "/api/v1/mode/transition", wish, content_type="application/json")
    if script == "background":
        kernel = client.node.kernel
        status = 200
        for step in (kernel.background.drain, kernel.background.recover, kernel.background.flush):
            try:
                step()
            except ArtstoreError as e:
                status = 507 if e.code == "storage-full" else 503
        return status, None, {"retry-after": "5"}
    raise AssertionError(script)


def wished(n: int) -> str:
    """The mode that the n-th request asks for: there and back."""
    return "ro" if n % 2 else "rw"


def main(home: Path, script: str, old: str, every: int) -> None:
    background.INTERVAL = background.RETRY_MIN = 1e6  # what it does is a script of its own
    keys._RECENT_NS = 1 << 62  # how many calls a request makes must not depend on the age of the keys
    faults = Faults()
    client = Client(home)
    dice = random.Random()
    n, kind, number = dice.randrange(every) if every > 1 else 0, 0, 0
    n += 1
    while True:
        number += 1
        if script in ("delete", "background"):
            old = client.ask("POST", "/api/v1/files?filename=victim.txt", b"victim")[1]["file_id"]
        if script == "background":
            client.ask("DELETE", f"/api/v1/files/{old}")
        before = client.ask("GET", f"/api/v1/files/{old}")[1]
        faults.arm(n, kind)
        status, shown, headers = request(client, script, number, old)
        faults.disarm()
        if faults.hit is None:
            break
        name, error = faults.hit
        left = litter(home)
        for step in (client.node.kernel.background.drain, client.node.kernel.background.recover):
            step()  # as the background thread does every few seconds
        after = client.ask("GET", f"/api/v1/files/{old}")
        again = request(client, script, number, old)[0]
        search = client.ask("GET", "/api/v1/files?limit=1000")
        told = {
            "n": n,
            "call": name,
            "error": errno.errorcode.get(error, "short"),
            "status": status,
            "shown": shown,
        }
        told |= {"retry": headers.get("retry-after"), "litter": left, "before": before, "after": after[:2]}
        told |= {"again": again, "search": search[0], "synced again": faults.again}
        told |= {"ready": client.ask("GET", "/health/ready")[:2]}
        if name in ("fsync", "fdatasync") or error == errno.EROFS:
            client.node.close()  # a second failure within ten minutes would be another story
            faults.reborn()
            client.open()
            # What a closed store refused is done now; and the next request makes the same calls as the last one.
            told |= {"reopened": request(client, script, number, old)[0]}
        told |= {"mode": client.ask("GET", "/api/v1/info")[1]["mode"], "wished": wished(number)}
        print(json.dumps(told), flush=True)
        kind += 1
        if kind >= faults.kinds:
            n, kind = n + every, 0
    client.node.close()
    client.open()
    client.node.close()
    print(json.dumps({"calls": n - 1}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1)
