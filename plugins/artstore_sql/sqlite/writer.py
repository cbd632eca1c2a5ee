"""The one thread of a process that writes to the database."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from artstore.errors import ArtstoreError, Unavailable
from artstore_sql.sqlite.database import BadData, Sqlite
from artstore_sql.writes import Count, Writes

log = logging.getLogger("artstore.sql")

BATCH = 1000
"""Rows of one transaction, about. Other processes, and the callers, wait until it is committed."""

Row = dict[str, Any]
Step = Callable[[Connection, Sequence[Row]], None]


@dataclass(eq=False, slots=True)
class Job:
    """One caller's change. A `durable` one survives power loss once it is done."""

    step: Step | None
    rows: Sequence[Row]
    durable: bool
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    error: ArtstoreError | None = None

    def finish(self, error: ArtstoreError | None = None) -> None:
        self.error = error
        self.done.set()


class Writer:
    """Gathers the changes of many callers into one transaction each time the lock is free."""

    def __init__(
        self, database: Sqlite, timeout: float, *, count: Callable[[Connection], Count], writes: Writes
    ) -> None:
        """`count` counts a transaction within it; what is committed is confirmed to `writes`."""
        self._database = database
        self._count = count
        self._writes = writes
        self._timeout = timeout
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def execute(self, step: Step | None, rows: Sequence[Row] = (), *, durable: bool = False) -> None:
        """Run `step` in a transaction and return when it is committed.

        Raises `Unavailable`; a step that had started by then may still be committed.
        """
        job = Job(step, rows, durable, time.monotonic() + self._timeout)
        with self._changed:
            if self._closed:
                raise Unavailable("The cache is closed.")
            if self._thread is None:
                # Not sooner: a server may fork after the cache is built, and a thread does not follow.
                self._thread = threading.Thread(target=self._run, name="artstore-sql", daemon=True)
                self._thread.start()
            self._queue.append(job)
            self._changed.notify()
        if not job.done.wait(self._timeout):
            with self._changed:
                if job in self._queue:
                    # Its caller has given up. Run later, it could undo what another process did since.
                    self._queue.remove(job)
            if not job.done.is_set():
                raise Unavailable(f"The cache did not write within {self._timeout:g} s.")
        if job.error is not None:
            # A fresh exception: many threads raising one object would share its traceback.
            raise type(job.error)(job.error.detail) from job.error

    def close(self) -> None:
        """Write what is queued, then stop. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(self._timeout)
            if thread.is_alive():
                log.warning("the writer did not stop within %g s", self._timeout)

    def _run(self) -> None:
        while (oldest := self._oldest()) is not None:
            try:
                with self._database.exclusive(oldest.deadline):
                    self._write(self._batch())
            except ArtstoreError as e:
                with self._changed:
                    if oldest in self._queue:
                        self._queue.remove(oldest)
                if not oldest.done.is_set():
                    oldest.finish(e)

    def _oldest(self) -> Job | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            return self._queue[0]

    def _batch(self) -> list[Job]:
        # Collected while the lock is held: the jobs that arrived while we waited for it join the transaction.
        jobs: list[Job] = []
        rows = 0
        with self._changed:
            while self._queue and rows < BATCH:
                jobs.append(self._queue.popleft())
                rows += 1 + len(jobs[-1].rows)
        return jobs

    def _write(self, jobs: list[Job]) -> None:
        try:
            written = self._commit(jobs)
            waiting = [job for job in written if job.durable]
            for job in written:
                if not job.durable:
                    job.finish()
            if waiting:
                self._database.sync()
            else:
                self._database.checkpoint_if_long()
            for job in waiting:
                job.finish()
        except ArtstoreError as e:
            self._fail(jobs, e)
        except Exception as e:
            log.exception("the writer failed")
            self._fail(jobs, Unavailable(f"The cache failed: {e!r}."))

    @staticmethod
    def _fail(jobs: list[Job], error: ArtstoreError) -> None:
        for job in jobs:
            if not job.done.is_set():
                job.finish(error)

    def _commit(self, jobs: list[Job]) -> list[Job]:
        """Commit the jobs together, or one by one when a row is refused. Return those that were committed."""
        count: Count | None = None
        try:
            with self._database.transaction(time.monotonic() + self._timeout) as connection:
                for step, group in groupby(jobs, key=lambda job: job.step):
                    if step is not None:
                        step(connection, [row for job in group for row in job.rows])
                if any(job.step is not None for job in jobs):
                    count = self._count(connection)
            if count is not None:
                self._writes.confirm(count)
        except BadData as e:
            if len(jobs) == 1:
                jobs[0].finish(e)
                return []
            return [job for one in jobs for job in self._commit([one])]
        return jobs
