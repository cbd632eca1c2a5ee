"""System calls of a process, seen and counted, or answered with SIGKILL or an error, by strace.

strace counts `when=N` for each thread and each system call. So a death is named by a thread, a call and a number,
and where the threads are known strace attaches to that one thread alone: then every call can be reached.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "sync_file_range"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "ftruncate", "truncate", "fallocate", "openat", "open", "creat"),
    *("chmod", "fchmod", "fchmodat", "utimensat", "sendfile", "copy_file_range", "mknodat"),
)
"""What may change a file or a name, and what makes it durable."""
_LINE = re.compile(r"(?m)^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True)
class Call:
    """The `number`-th `name` of the `thread`-th thread since the trace began; `text` as strace shows it."""

    thread: int
    name: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.number} of thread {self.thread}: {self.text}"


def threads(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/task")))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def _strace(log: Path, *options: str) -> Iterator[None]:
    """strace attached to a process, until the end of the block or of the process."""
    command = ["strace", "-o", str(log), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert tracer.stderr is not None
        said = b""
        while b" attached" not in said:
            assert select.select([tracer.stderr], [], [], 30)[0], said
            piece = os.read(tracer.stderr.fileno(), 4096)
            assert piece, f"strace cannot attach (it takes root, or kernel.yama.ptrace_scope=0): {said!r}"
            said += piece
        yield
    finally:
        with suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGINT)
        try:
            tracer.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # seen once in hundreds: it waits for threads that it killed itself
            tracer.kill()
            tracer.communicate(timeout=30)


@dataclass
class Trace:
    """What was seen between the beginning and the end of a trace; complete once it has ended."""

    log: Path
    born: list[int]
    home: Path

    def calls(self, *, all_of: bool = False) -> list[Call]:
        """Those that changed something of the home, in order; `all_of` them, whatever they were asked for."""
        known = list(self.born)
        counts: Counter[tuple[int, str]] = Counter()
        found = []
        for tid, name, rest in _LINE.findall(self.log.read_text(errors="replace")):
            if int(tid) not in known:
                known.append(int(tid))
            thread = known.index(int(tid))
            counts[thread, name] += 1
            if all_of or self._changes(name, rest):
                found.append(Call(thread, name, counts[thread, name], f"{name}({rest}"))
        return found

    def _changes(self, name: str, rest: str) -> bool:
        return str(self.home) in rest and (name not in ("openat", "open") or "O_CREAT" in rest)


@contextmanager
def watched(pid: int, home: Path, log: Path, calls: tuple[str, ...] = CALLS) -> Iterator[Trace]:
    """See every call of all threads of `pid`, of those that are yet to be born too."""
    born = threads(pid)
    with _strace(log, "-f", "-y", "-s", "0", "-e", "trace=" + ",".join(calls), "-p", str(pid)):
        yield Trace(log, born, home)


@contextmanager
def doomed(
    pid: int, call: Call, log: Path, *, any_thread: bool = False, path: Path | None = None
) -> Iterator[None]:
    """Let the process be killed when it enters `call`.

    `any_thread`: by whichever thread comes to that number first. `path`: counting what touches that path alone.
    """
    born = threads(pid)
    # A thread that is yet to be born cannot be named: whichever comes to that number first.
    any_thread = any_thread or call.thread >= len(born)
    whom = ["-f", "-p", str(pid)] if any_thread else ["-p", str(born[call.thread])]
    only = [] if path is None else ["-P", str(path)]
    inject = f"inject={call.name}:signal=KILL:when={call.number}"
    with _strace(log, "-y", "-s", "0", "-e", f"trace={call.name}", "-e", inject, *only, *whom):
        yield


@contextmanager
def failing(pid: int, names: str, error: str, log: Path, *, path: Path | None = None) -> Iterator[None]:
    """Let the first call of each thread fail that is one of `names`; counting what touches `path` alone."""
    only = [] if path is None else ["-P", str(path)]
    inject = f"inject={names}:error={error}:when=1"
    with _strace(log, "-f", "-y", "-s", "0", "-e", f"trace={names}", "-e", inject, *only, "-p", str(pid)):
        yield
    assert "(INJECTED)" in log.read_text(errors="replace"), f"no {names} touches {path or 'anything'}"
