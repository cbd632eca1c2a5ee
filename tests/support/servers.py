"""Real elements on real sockets, and a client that sends exactly the bytes a test wrote."""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from joserfc import jws
from joserfc.jwk import RSAKey

from support.forkserver import Child, ForkServer
from support.ports import free_port

COMMANDS = ForkServer("support.commands")
ARTSTORE = str(Path(sys.executable).with_name("artstore"))
KEY = RSAKey.generate_key(2048, auto_kid=False)
ISSUER, AUDIENCE = "https://issuer.example", "store"
DEADLINE = 30.0

Headers = list[tuple[str, str]]

_FAULTS = re.compile(r"(?m)^.*(?:Traceback| ERROR | CRITICAL |artstore\.access \S+ \S+ \S+ 500 |Warning:).*$")


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """What `condition` returns as soon as that is true; fails when it never is."""
    began, pause = time.monotonic(), 0.01
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < began + deadline, f"{what}: not within {deadline:g} s"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)  # to look costs processor time, which others want


def token(role: str | None = "admin", **claims: Any) -> str:
    """A token of the key that every element here trusts; a claim that is None is left out."""
    now = int(time.time())
    payload = {"sub": "u-1", "name": "Ivanov", "role": role, "iat": now, "exp": now + 3600}
    payload |= {"iss": ISSUER, "aud": ["other", AUDIENCE]} | claims
    kept = {name: value for name, value in payload.items() if value is not None}
    return sign({"alg": "RS256"}, json.dumps(kept).encode())


def sign(header: dict[str, Any], payload: bytes, key: RSAKey = KEY) -> str:
    return jws.serialize_compact(header, payload, key, algorithms=["RS256"])


@dataclass(frozen=True)
class Answer:
    """One response, read whole. `headers` are as they came, names in lower case."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        found = [v for n, v in self.headers if n == name.lower()]
        assert len(found) <= 1, f"{name} comes {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int | None = None, code: str | None = None) -> dict[str, Any]:
        """The problem that this must be (RFC 9457), and of that status and code."""
        shown = f"{self.status} {self.headers} {self.body[:500]!r}"
        assert self.header("content-type") == "application/problem+json", shown
        problem: dict[str, Any] = self.json()
        assert 400 <= self.status < 500 or self.status in (503, 507), shown
        assert problem["status"] == self.status, shown
        assert problem["type"] == f"https://artstore.dev/problems/{problem['code']}", shown
        assert problem["title"], shown
        assert problem["detail"], shown
        assert problem["request_id"] == self.header("x-request-id"), shown
        assert problem.keys() - {"field"} == {"type", "title", "status", "detail", "code", "request_id"}, (
            shown
        )
        assert not re.search("Traceback|/tmp", problem["detail"]), shown
        assert status in (None, self.status), shown
        assert code in (None, problem["code"]), shown
        return problem


class Connection:
    """A socket to a server: bytes out, answers in."""

    def __init__(self, port: int, timeout: float = DEADLINE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Go away rudely: the server sees RST where `close` shows it FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, data: bytes) -> Connection:
        self.socket.sendall(data)
        return self

    def line(self) -> bytes:
        return self._file.readline()

    def rest(self) -> bytes:
        """What comes until the server closes."""
        return self._file.read()

    def at_end(self) -> bool:
        """Whether the server has closed; waits for it."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def answer(self, method: str = "GET") -> Answer:
        response = http.client.HTTPResponse(_Shared(self._file), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        headers = [(n.lower(), v) for n, v in response.getheaders()]
        return Answer(response.status, headers, body)


class _Shared:
    """What HTTPResponse takes for a socket; it reads on where the last one stopped, and closes nothing."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, *_: object) -> Any:
        return self

    def close(self) -> None:
        """The connection outlives its answers."""

    def flush(self) -> None:
        """Nothing is written here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@dataclass
class Element:
    """One element behind one server."""

    adapter: str
    home: Path
    port: int
    process: subprocess.Popen[bytes] | Child
    log: Path
    bearer: str = field(default_factory=token)
    exits: tuple[int, ...] = (0,)

    # --- asking ---

    def connect(self, timeout: float = DEADLINE) -> Connection:
        return Connection(self.port, timeout)

    def head(self, method: str, target: str, headers: Headers | None = None, **options: Any) -> bytes:
        """The head of a request. `bearer` None: without a token; `host` None: without Host."""
        bearer, host = options.get("bearer", self.bearer), options.get("host", "localhost")
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"Host: {host}"] if host is not None else []
        lines += [f"Authorization: Bearer {bearer}"] if bearer is not None else []
        lines += [f"{name}: {value}" for name, value in headers or []]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    def ask(
        self,
        method: str,
        target: str,
        headers: Headers | None = None,
        body: bytes | None = None,
        **options: Any,
    ) -> Answer:
        """One request on a connection of its own."""
        headers = list(headers or [])
        if body is not None and not any(n.lower() == "content-length" for n, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        return self.raw(self.head(method, target, headers, **options) + (body or b""), method)

    def raw(self, data: bytes, method: str = "GET") -> Answer:
        """What the server says to these bytes."""
        with self.connect() as connection:
            try:
                connection.send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it answered before it had read all
            return connection.answer(method)

    def post(self, body: bytes, filename: str = "a.txt", headers: Headers | None = None) -> Answer:
        return self.ask("POST", f"/api/v1/files?filename={quote(filename, safe='')}", headers, body)

    def post_form(self, parts: list[bytes], headers: Headers | None = None, **options: Any) -> Answer:
        return self.ask("POST", "/api/v1/files", [FORM, *(headers or [])], form(*parts), **options)

    def put(self, file_id: str, body: bytes, filename: str = "a.txt", **options: Any) -> Answer:
        return self.ask(
            "PUT", f"{file_path(file_id)}?filename={quote(filename, safe='')}", None, body, **options
        )

    def patch(self, file_id: str, patch: Any, headers: Headers | None = None) -> Answer:
        merge = ("Content-Type", "application/merge-patch+json")
        return self.ask("PATCH", file_path(file_id), [merge, *(headers or [])], json.dumps(patch).encode())

    def get(self, target: str, *headers: tuple[str, str], **options: Any) -> Answer:
        return self.ask("GET", target, list(headers), **options)

    def download(self, file_id: str, *headers: tuple[str, str], query: str = "") -> Answer:
        return self.get(f"{file_path(file_id)}/download{query}", *headers)

    def upload(self, body: bytes, filename: str = "a.txt", **fields: str) -> dict[str, Any]:
        """A file that is there; its JSON."""
        answer = self.post_form([*(text(n, v) for n, v in fields.items()), file(body, filename)])
        assert answer.status == 201, answer
        made: dict[str, Any] = answer.json()
        return made

    def mode(self, target: str, *, confirm: bool = False) -> Answer:
        wish = json.dumps({"target_mode": target, "confirm": confirm, "reason": "test"}).encode()
        return self.ask("POST", "/api/v1/mode/transition", [JSON], wish)

    # --- looking ---

    def tree(self) -> set[str]:
        """Every file in the store but for the element's own records."""
        files = self.home / "files"
        return {
            str(Path(at, name).relative_to(files))
            for at, _, names in os.walk(files)
            for name in names
            if ".artstore" not in Path(at).relative_to(files).parts
        }

    def stored(self, name: str) -> bytes:
        """What lies in the store under a name that `tree` returns."""
        return (self.home / "files" / name).read_bytes()

    def staged(self) -> list[str]:
        staging = os.walk(self.home / "files/.artstore/staging")  # directories come and go meanwhile
        # A worker that is only starting writes a record there.
        uploads = (
            (at, name) for at, _, names in staging for name in names if not name.startswith("~update~")
        )
        return [os.path.join(at, name) for at, name in uploads if name != "lock"]

    def is_receiving(self) -> bool:
        """Whether bytes of an upload are being kept."""
        return bool(self.staged())

    def pending(self) -> list[Any]:
        items: list[Any] = self.get("/api/v1/transactions?status=pending").json()["items"]
        return items

    def files(self) -> dict[str, dict[str, Any]]:
        """Return all files that a search lists, page by page, under their ids."""
        found: dict[str, dict[str, Any]] = {}
        cursor = ""
        while True:
            page = self.get(f"/api/v1/files?limit=1000{cursor}").json()
            found |= {attr["file_id"]: attr for attr in page["items"]}
            if not page.get("next_cursor"):
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def wait_idle(self) -> None:
        """Wait until no upload is under way; what must not be there then fails here."""
        until(lambda: not self.staged() and not self.pending(), "staging empty, nothing pending")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Whatever happens within the block leaves no file, nothing staged, no open intent."""
        before = self.tree()
        yield
        self.wait_idle()
        assert self.tree() == before

    def answers(self) -> bool:
        """Whether a process serves."""
        try:
            return self.get("/health/live").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def workers(self) -> list[int]:
        """The processes that serve, oldest first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(parent) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return sorted(found)

    # --- ending ---

    def kill(self) -> None:
        """Kill all processes of the element, and wait for the end of the first."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> None:
        """SIGTERM; it must drain, exit well and have had no fault of its own."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE)
        finally:
            self.process.kill()
        log = self.log.read_text()
        faults = _FAULTS.findall(log)
        assert not faults, (self.adapter, faults[:5], log[-4000:])
        assert code in self.exits, (self.adapter, code, log[-4000:])


def holder(connection: Connection, pids: list[int]) -> int:
    """Which of these processes has accepted a connection; 0 when none has."""
    try:
        ours, theirs = (s[1] for s in (connection.socket.getsockname(), connection.socket.getpeername()))
    except OSError:  # reset by now: by one that died before it took the connection
        return 0
    wanted = f":{theirs:04X}", f":{ours:04X}"

    def look() -> int | None:
        inode = ""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if (fields[1][-5:], fields[2][-5:], fields[3]) == (*wanted, "01"):  # established
                inode = fields[9]
        if inode in ("", "0"):  # closed, or not accepted yet
            return None if inode else 0
        for pid in pids:
            for fd in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    if os.readlink(fd) == f"socket:[{inode}]":
                        return pid
                except FileNotFoundError:
                    continue
        return 0

    return until(lambda: (found := look()) is not None and (found,), "the connection is accepted")[0]


def prepare(home: Path) -> None:
    """A home whose element trusts `KEY`."""
    keys = home / "state" / "keys"
    keys.mkdir(mode=0o700, parents=True)
    private = keys / "private.pem"
    private.write_bytes(KEY.as_pem(private=True))
    private.chmod(0o600)
    (keys / "public.pem").write_bytes(KEY.as_pem(private=False))


def start(
    adapter: str,
    home: Path,
    *,
    workers: int = 1,
    settings: dict[str, str] | None = None,
    command: list[str] | None = None,
) -> Element:
    """A server of `home`, ready. `settings`: ARTSTORE_ variables without that prefix; `command` may hold PORT.

    With a command of its own, or a path to modules of its own, a new interpreter is started.
    """
    if not home.exists():
        prepare(home)
    port = free_port()
    serve = [ARTSTORE, "serve", "--adapter", adapter, "--port", str(port), "--workers", str(workers)]
    if command is not None:
        serve = [part.replace("PORT", str(port)) for part in command]
    environment = _environment(home, settings or {})
    log = home.with_name(f"{home.name}.{port}.log")
    process: subprocess.Popen[bytes] | Child
    with log.open("wb") as sink:
        if command is None and not environment.get("PYTHONPATH"):
            process = COMMANDS.fork(log, argv=serve, environment=environment, cwd=str(home.parent))
        else:
            process = subprocess.Popen(
                serve, env=environment, stdout=sink, stderr=sink, cwd=home.parent, start_new_session=True
            )
    element = Element(adapter, home, port, process, log)
    if command is not None:
        element.exits = (0, -signal.SIGTERM)  # uvicorn dies of the signal that it has obeyed

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return element.answers()

    try:
        until(ready, "start-up", 90)
    except BaseException:
        process.kill()
        raise
    return element


def _environment(home: Path, settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARTSTORE_")}
    given = {f"ARTSTORE_{name}": value for name, value in settings.items()}
    return kept | given | {"ARTSTORE_HOME": str(home), "PYTHONWARNINGS": "default"}


def artstore(
    home: Path, *arguments: str, settings: dict[str, str] | None = None, modules: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line on a home. `settings` as for `start`; `modules`: a directory of modules to import."""
    environment = _environment(home, settings or {}) | ({"PYTHONPATH": str(modules)} if modules else {})
    return subprocess.run(
        [ARTSTORE, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process while the block runs; -pid: all processes of a group."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def serving(adapter: str, home: Path, **how: Any) -> Iterator[Element]:
    """The same, until the end of the block, whatever happens in it."""
    element = start(adapter, home, **how)
    try:
        yield element
    finally:
        element.kill()


# --- what goes over the wire ---

BOUNDARY = "cut-here-7d3"
FORM = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
JSON = ("Content-Type", "application/json")


def file_path(file_id: str) -> str:
    return f"/api/v1/files/{file_id}"


def part(disposition: bytes, body: bytes, *headers: bytes) -> bytes:
    """A part of a form, headers as bytes."""
    lines = b"".join(b"\r\n" + h for h in headers)
    return b"Content-Disposition: form-data; " + disposition + lines + b"\r\n\r\n" + body


def text(name: str, value: str) -> bytes:
    return part(b'name="%s"' % name.encode(), value.encode())


def file(body: bytes, filename: str = "a.txt", content_type: str = "text/plain") -> bytes:
    """The part `file`, its name written as browsers write it."""
    shown = filename.replace('"', "%22").encode("utf-8", "surrogateescape")
    return part(
        b'name="file"; filename="%s"' % shown,
        body,
        f"Content-Type: {content_type}".encode("utf-8", "surrogateescape"),
    )


def form(*parts: bytes) -> bytes:
    opening = b"--" + BOUNDARY.encode()
    return b"".join(opening + b"\r\n" + p + b"\r\n" for p in parts) + opening + b"--\r\n"


def chunked(body: bytes, size: int = 65536) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def sha256_header(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


# `python -m support.servers postgres`, in tests/: a server until Ctrl-C, its address on the first line.
if __name__ == "__main__":
    importlib.import_module(f"support.{sys.argv[1]}").run(*sys.argv[2:])
