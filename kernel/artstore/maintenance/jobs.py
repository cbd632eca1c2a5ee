"""Long work that outlives the request that asked for it: one job at a time, also among nodes that share a log.

Every process of a node can tell of the jobs of that node.

<home>/state/jobs/lock              held by `flock` as long as a job runs; it dies with its process
<home>/state/jobs/<id>.json         what is known of a job: small, replaced whole, the oldest go
<home>/state/jobs/position.json     how far a rebuild came, for the next one to go on there
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from artstore.attr import timestamp
from artstore.errors import ArtstoreError, Conflict, NotFound, Unavailable
from artstore.ids import Key, now, parse_id, uuid7
from artstore.spi import Coordination

log = logging.getLogger("artstore.jobs")

KEPT = 100
"""Jobs remembered."""
LISTED = 100
"""Findings a job lists; more are counted only."""
_EVERY = 0.5
"""Seconds between two looks of others at a job's progress."""

Task = Literal["check", "repair", "rebuild"]
State = Literal["running", "done", "failed"]


class Listed(BaseModel):
    """Something a job found that is not well, and what it did about it."""

    kind: str
    key: Key
    detail: str = ""
    done: str = ""


class Progress(BaseModel):
    """How far a job is. `total`: files, where the cache knows; `rate`: files a second; `bytes`: of data read."""

    done: int = 0
    total: int | None = None
    rate: float = 0.0
    bytes: int = 0


class Record(BaseModel):
    """What is known of a job. `found`: how many names of each kind; `repaired`: how many times what was done."""

    id: str
    task: Task
    digests: bool = False
    by: str
    status: State = "running"
    started: str
    finished: str | None = None
    error: str | None = None
    progress: Progress = Field(default_factory=Progress)
    found: dict[str, int] = Field(default_factory=dict)
    repaired: dict[str, int] = Field(default_factory=dict)
    findings: list[Listed] = Field(default_factory=list)


class Interrupted(ArtstoreError):
    """The process ends before the job does."""

    code = "unavailable"


class Job:
    """A job in the hands of the process that does it."""

    def __init__(self, record: Record, write: Callable[[Record], None]) -> None:
        self.record = record
        self._write = write
        self._began = time.monotonic()
        self._told = 0.0
        self._stop = threading.Event()
        self.drawn: Callable[[Progress], None] = lambda progress: None

    def pulse(self) -> None:
        """Called now and then by the work itself. Raises `Interrupted` when it is to end."""
        if self._stop.is_set():
            raise Interrupted("interrupted: the process was asked to end")
        self.drawn(self.record.progress)
        at = time.monotonic()
        if at - self._told > _EVERY:
            self._told = at
            self.record.progress.rate = round(self.record.progress.done / max(at - self._began, 0.001), 1)
            self._write(self.record)

    def count(self, kind: str) -> None:
        self.record.found[kind] = self.record.found.get(kind, 0) + 1

    def repaired(self, done: str) -> None:
        self.record.repaired[done] = self.record.repaired.get(done, 0) + 1

    def tell(self, kind: str, key: Key, detail: str, done: str) -> None:
        if len(self.record.findings) < LISTED:
            self.record.findings.append(Listed(kind=kind, key=_plain(key), detail=_plain(detail), done=done))

    def stop(self) -> None:
        self._stop.set()

    def end(self, error: str | None) -> None:
        self.record.status = "done" if error is None else "failed"
        self.record.error = None if error is None else _plain(error)
        self.record.finished = timestamp(now())
        took = max(time.monotonic() - self._began, 0.001)
        self.record.progress.rate = round(self.record.progress.done / took, 1)
        self._write(self.record)


def _plain(text: str) -> str:
    """Names that are no UTF-8 come with halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()


class Jobs:
    """The jobs of one home. `directory` is made when the first job needs it."""

    def __init__(self, directory: Path, coordination: Coordination) -> None:
        self._directory = directory
        self._lock = directory / "lock"
        self._coordination = coordination
        self._running: tuple[Job, threading.Thread] | None = None

    def start(self, task: Task, *, by: str, digests: bool, work: Callable[[Job], None]) -> Record:
        """Begin `work` on a thread of its own. Raises `Conflict` while another job runs, `Unavailable`."""
        job, held = self._begin(task, by, digests)
        thread = threading.Thread(target=self._run, args=(job, held, work), name="job", daemon=True)
        self._running = (job, thread)
        begun = job.record.model_copy(deep=True)
        thread.start()
        return begun

    def run(self, task: Task, *, by: str, digests: bool, work: Callable[[Job], None]) -> Record:
        """Do `work` now; what became of it. Raises `Conflict` while another job runs, and what `work` raises."""
        job, held = self._begin(task, by, digests)
        error = self._run(job, held, work)
        if error is not None:
            raise error
        return job.record

    def get(self, job_id: str) -> Record:
        """What is known of a job. Raises `NotFound`, `Unavailable`."""
        try:
            path = self._path(parse_id(job_id, "job_id"))
            record = Record.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            raise NotFound(f"There is no job {job_id}.") from None
        except OSError as e:
            raise Unavailable(f"The job cannot be read: {e.strerror}.") from e
        if record.status == "running" and not self._lives(record.id):
            # It may have ended between the two looks.
            again = Record.model_validate_json(path.read_bytes())
            if again.status == "running":
                again.status, again.error = "failed", "the process died"
            return again
        return record

    def newest(self, *, limit: int, before: str | None) -> list[Record]:
        """The newest `limit` jobs with ids below `before`, newest first."""
        found: list[Record] = []
        for job_id in reversed(self._ids()):
            if len(found) == limit:
                break
            if before is None or job_id < before:
                try:
                    found.append(self.get(job_id))
                except NotFound:
                    continue
        return found

    def close(self) -> None:
        """End the job that runs here, cleanly."""
        if self._running is not None:
            job, thread = self._running
            job.stop()
            thread.join()

    def position(self) -> str:
        """The directory that an unfinished rebuild had reached, or nothing."""
        try:
            return (self._directory / "position.json").read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def set_position(self, directory: str) -> None:
        """Remember it; nothing: the rebuild is over."""
        path = self._directory / "position.json"
        if directory:
            self._replace(path, directory.encode("utf-8", "replace"))
        else:
            path.unlink(missing_ok=True)

    def _begin(self, task: Task, by: str, digests: bool) -> tuple[Job, ExitStack]:
        with ExitStack() as stack:
            try:
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
                fd = self._take()
                stack.callback(os.close, fd)
                stack.enter_context(self._coordination.exclusive("job", wait=False))
                at = now()
                record = Record(id=uuid7(at), task=task, digests=digests, by=by, started=timestamp(at))
                os.ftruncate(fd, 0)
                os.pwrite(fd, record.id.encode(), 0)
                self._forget()
                self._replace(self._path(record.id), record.model_dump_json().encode())
            except OSError as e:
                raise Unavailable(f"A job cannot begin: {e.strerror}.") from e
            return Job(record, self._write), stack.pop_all()

    def _run(self, job: Job, held: ExitStack, work: Callable[[Job], None]) -> Exception | None:
        error: Exception | None = None
        try:
            work(job)
        except Exception as e:
            error = e
            if not isinstance(e, ArtstoreError):
                log.exception("job %s failed", job.record.id)
        except BaseException:  # Ctrl-C at a command
            job.end("interrupted")
            held.close()
            raise
        # The record first: who finds the lock free may read that it is over.
        told = None if error is None else "it failed; the log says why"
        if isinstance(error, ArtstoreError):
            told = error.detail
        job.end(told)
        held.close()
        return error

    def _take(self) -> int:
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        for left in (3, 2, 1, 0):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                # Somebody may only be looking whether a job lives.
                if not left:
                    running = os.pread(fd, 36, 0).decode("ascii", "replace")
                    os.close(fd)
                    raise Conflict(f"The job {running} is running; one at a time.") from None
                time.sleep(0.02)
        raise AssertionError("unreachable")

    def _lives(self, job_id: str) -> bool:
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if os.pread(fd, 36, 0) != job_id.encode():
                return False
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _ids(self) -> list[str]:
        try:
            return sorted(p.stem for p in self._directory.glob("*-*.json"))
        except OSError:
            return []

    def _forget(self) -> None:
        for job_id in self._ids()[: -KEPT + 1]:
            self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"

    def _write(self, record: Record) -> None:
        try:
            self._replace(self._path(record.id), record.model_dump_json().encode())
        except OSError as e:  # a full disk: the work goes on, and nobody hears how far it is
            log.warning("the state of job %s cannot be written: %s", record.id, e.strerror)

    def _replace(self, path: Path, content: bytes) -> None:
        temp = path.with_name(f".{path.name}-{os.getpid()}")
        temp.write_bytes(content)
        temp.replace(path)
