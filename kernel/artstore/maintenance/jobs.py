"""Jobs: long work that continues after the request that started it. One runs at a time, also among nodes.

Every process of a node can read the records of the jobs of that node.

<home>/state/jobs/lock              owned by the process that runs a job; it holds the id of that job
<home>/state/jobs/<id>.json         the record of a job; replaced as a whole, the oldest records are removed
<home>/state/jobs/position.json     the directory that a rebuild reached: the next one continues there
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
from artstore.maintenance.verify import Survey
from artstore.posix import OwnedFile
from artstore.spi import Coordination

log = logging.getLogger("artstore.jobs")

RECORD_LIMIT = 100
"""Records that are kept."""
FINDING_LIMIT = 100
"""Findings that a record lists. The others are counted only."""
_WRITE_INTERVAL = 0.5
"""Seconds between two writes of a record that only has new progress."""

Task = Literal["check", "repair", "rebuild"]
State = Literal["running", "done", "failed"]


class FindingRecord(BaseModel):
    """Something that a job found and that is not healthy, and what the job did about it."""

    kind: str
    key: Key
    detail: str = ""
    done: str = ""


class Progress(BaseModel):
    """How far a job is. `total`: files, if the cache knows; `rate`: files a second; `bytes`: of data read."""

    done: int = 0
    total: int | None = None
    rate: float = 0.0
    bytes: int = 0


class Record(BaseModel):
    """The record of a job. `found`: names of each kind, counted; `repaired`: repairs of each kind, counted."""

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
    findings: list[FindingRecord] = Field(default_factory=list)


class Interrupted(ArtstoreError):
    """The process ends before the job is done."""

    code = "unavailable"


class Job:
    """A job, in the process that runs it. One thread works on it; `stop` may be called from any."""

    def __init__(
        self, record: Record, write: Callable[[Record], None], on_progress: Callable[[Progress], None]
    ) -> None:
        self.record = record
        self._write = write
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._written = 0.0
        self._stopping = threading.Event()

    def show_progress(self, survey: Survey) -> None:
        """Put the progress of `survey` into the record, and now and then on disk.

        The work calls it often. Raises `Interrupted` after `stop`.
        """
        if self._stopping.is_set():
            raise Interrupted("interrupted: the process was asked to end")
        self.set_progress(survey)
        self._on_progress(self.record.progress)
        at = time.monotonic()
        if at - self._written > _WRITE_INTERVAL:
            self._written = at
            self._set_rate()
            self._write(self.record)

    def set_progress(self, survey: Survey) -> None:
        """Put the progress of `survey` into the record."""
        self.record.progress.done, self.record.progress.bytes = survey.files, survey.size

    def count_finding(self, kind: str) -> None:
        """Add one to the findings of that kind."""
        self.record.found[kind] = self.record.found.get(kind, 0) + 1

    def count_repair(self, done: str) -> None:
        """Add one to the repairs of that kind."""
        self.record.repaired[done] = self.record.repaired.get(done, 0) + 1

    def add_finding(self, kind: str, key: Key, detail: str, done: str) -> None:
        """List a finding in the record, unless the record lists enough of them."""
        if len(self.record.findings) < FINDING_LIMIT:
            finding = FindingRecord(kind=kind, key=_escape(key), detail=_escape(detail), done=done)
            self.record.findings.append(finding)

    def stop(self) -> None:
        """Ask the work to end. It ends with `Interrupted` at its next progress."""
        self._stopping.set()

    def end(self, error: str | None) -> None:
        """Write the record for the last time: the job is done, or failed with `error`."""
        self.record.status = "done" if error is None else "failed"
        self.record.error = None if error is None else _escape(error)
        self.record.finished = timestamp(now())
        self._set_rate()
        self._write(self.record)

    def _set_rate(self) -> None:
        seconds = max(time.monotonic() - self._started, 0.001)
        self.record.progress.rate = round(self.record.progress.done / seconds, 1)


def _ignore(progress: Progress) -> None:
    """Show no progress: the default."""


def _escape(text: str) -> Key:
    """Return `text` as valid UTF-8: file names that are not hold halves of surrogate pairs."""
    return Key(text.encode("utf-8", "backslashreplace").decode())


class Jobs:
    """The jobs of one home. `directory` is created when the first job needs it."""

    def __init__(self, directory: Path, coordination: Coordination) -> None:
        self._directory = directory
        self._lock = directory / "lock"
        self._coordination = coordination
        self._running: tuple[Job, threading.Thread] | None = None

    def start(self, task: Task, *, by: str, digests: bool, work: Callable[[Job], None]) -> Record:
        """Start `work` on a thread of its own, and return its record. Raises `Conflict` while another job runs,
        `Unavailable`."""
        job, locks = self._begin(task, by, digests, _ignore)
        thread = threading.Thread(target=self._run, args=(job, locks, work), name="job", daemon=True)
        self._running = (job, thread)
        record = job.record.model_copy(deep=True)
        thread.start()
        return record

    def run(
        self,
        task: Task,
        *,
        by: str,
        digests: bool,
        work: Callable[[Job], None],
        on_progress: Callable[[Progress], None] = _ignore,
    ) -> Record:
        """Do `work` now and return its record. Raises `Conflict` while another job runs, and what `work` raises."""
        job, locks = self._begin(task, by, digests, on_progress)
        error = self._run(job, locks, work)
        if error is not None:
            raise error
        return job.record

    def get(self, job_id: str) -> Record:
        """Return the record of a job. Raises `NotFound`, `InvalidField`, `Unavailable`."""
        try:
            path = self._path(parse_id(job_id, "job_id"))
            record = Record.model_validate_json(path.read_bytes())
            if record.status == "running" and not self._is_running(record.id):
                # It may have ended after its record was read, and it writes its record before it gives up the lock.
                record = Record.model_validate_json(path.read_bytes())
                if record.status == "running":
                    record.status, record.error = "failed", "the process died"
        except (FileNotFoundError, ValidationError):
            raise NotFound(f"There is no job {job_id}.") from None
        except OSError as e:
            raise Unavailable(f"The job cannot be read: {e.strerror}.") from e
        return record

    def newest(self, *, limit: int, before: str | None) -> list[Record]:
        """Return the newest `limit` records with ids below `before`, the newest first. Raises `Unavailable`."""
        found: list[Record] = []
        for job_id in reversed(self._ids()):
            if len(found) == limit:
                break
            if before is None or job_id < before:
                try:
                    found.append(self.get(job_id))
                except NotFound:  # removed meanwhile, or unreadable
                    continue
        return found

    def close(self) -> None:
        """Interrupt the job of this process, and wait until its record is written."""
        if self._running is not None:
            job, thread = self._running
            job.stop()
            thread.join()

    def position(self) -> str:
        """Return the directory that an unfinished rebuild had reached, or nothing."""
        try:
            return (self._directory / "position.json").read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def set_position(self, directory: str) -> None:
        """Write down the directory that a rebuild reached; nothing: it is done. Raises `OSError`."""
        path = self._directory / "position.json"
        if directory:
            self._replace(path, directory.encode("utf-8", "replace"))
        else:
            path.unlink(missing_ok=True)

    def _begin(
        self, task: Task, by: str, digests: bool, on_progress: Callable[[Progress], None]
    ) -> tuple[Job, ExitStack]:
        """Take the locks and write the record of a new job. The caller closes the locks."""
        with ExitStack() as stack:
            try:
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
                lock = self._acquire_lock()
                stack.callback(lock.close)
                stack.enter_context(self._coordination.exclusive("job", wait=False))
                at = now()
                record = Record(id=uuid7(at), task=task, digests=digests, by=by, started=timestamp(at))
                os.ftruncate(lock.fd, 0)
                os.write(lock.fd, record.id.encode())
                self._remove_oldest()
                self._replace(self._path(record.id), record.model_dump_json().encode())
            except OSError as e:
                raise Unavailable(f"A job cannot begin: {e.strerror}.") from e
            return Job(record, self._write, on_progress), stack.pop_all()

    def _run(self, job: Job, locks: ExitStack, work: Callable[[Job], None]) -> Exception | None:
        """Do the work, write how it ended, and only then give up the locks: a reader that finds them free may rely on
        the record."""
        with locks:
            try:
                work(job)
            except ArtstoreError as e:
                job.end(e.detail)
                return e
            except Exception as e:
                log.exception("job %s failed", job.record.id)
                job.end("it failed; the log says why")
                return e
            except BaseException:  # Ctrl-C at a command
                job.end("interrupted")
                raise
            job.end(None)
            return None

    def _acquire_lock(self) -> OwnedFile:
        """Own the lock file. Raises `Conflict` while a job runs, and `OSError`."""
        for _ in range(4):
            lock = OwnedFile.acquire(self._lock)
            if lock is not None:
                return lock
            time.sleep(0.02)  # `_is_running` of another thread or process owns it for a moment
        running = self._lock.read_text("ascii", "replace")
        raise Conflict(f"The job {running} is running; one at a time.")

    def _is_running(self, job_id: str) -> bool:
        """Whether a live process owns the lock file with that id in it. Raises `OSError`."""
        try:
            with self._lock.open("rb") as file:
                if file.read() != job_id.encode():
                    return False
                # A shared lock: two readers that ask at once do not take each other for the job.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _ids(self) -> list[str]:
        try:
            return sorted(p.stem for p in self._directory.glob("*-*.json"))
        except OSError:
            return []

    def _remove_oldest(self) -> None:
        for job_id in self._ids()[: -RECORD_LIMIT + 1]:
            self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"

    def _write(self, record: Record) -> None:
        try:
            self._replace(self._path(record.id), record.model_dump_json().encode())
        except OSError as e:  # the disk is full: the work continues, only its progress is not shown
            log.warning("the state of job %s cannot be written: %s", record.id, e.strerror)

    def _replace(self, path: Path, content: bytes) -> None:
        """Replace a file as a whole. It is not durable: a power cut ends the job as well."""
        temp = path.with_name(f".{path.name}-{os.getpid()}")
        temp.write_bytes(content)
        temp.replace(path)
