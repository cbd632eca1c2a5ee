"""What is done about the findings of a survey: rows follow their sidecars, broken pairs move to quarantine."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from artstore.attr import Attr
from artstore.errors import NotFound, Unavailable
from artstore.index import BATCH
from artstore.kernel import Kernel
from artstore.maintenance.jobs import Job, Jobs
from artstore.maintenance.verify import Finding, Kind, Survey
from artstore.recovery import ORPHAN_AGE

log = logging.getLogger("artstore.repairs")

_BROKEN = (Kind.DAMAGED, Kind.ORPHAN_DATA, Kind.ORPHAN_SIDECAR)


def reconcile(kernel: Kernel, job: Job, *, repair: bool, digests: bool) -> None:
    """Hold tree, sidecars and cache against each other; `repair` what can be. Raises `Unavailable`, `Interrupted`."""
    survey = Survey(
        backend=kernel.parts.backend,
        naming=kernel.parts.naming,
        cache=kernel.parts.cache,
        log=kernel.parts.log,
        digests=digests,
    )
    repairs = Repairs(kernel, job)
    for finding in _watched(survey, job):
        done = repairs.take(finding) if repair else ""
        if finding.kind is not Kind.OK:
            job.tell(finding.kind, finding.key, finding.detail, done)
    repairs.flush()
    if repair:
        kernel.parts.cache.flush()


def rebuild(kernel: Kernel, job: Job, jobs: Jobs) -> None:
    """The cache anew from the sidecars, while it is read and written: directory by directory its rows are brought to
    what the sidecars say. Goes on where one that was killed stopped. Raises `Unavailable`, `Interrupted`.

    True rows are never missing meanwhile, and a row that an upload or an update writes is never older than what
    this reads: each step looks again under the lock of its file, so that one look is enough here.
    """
    reached = jobs.position()
    if reached:
        job.repaired("continued")
    survey = Survey(
        backend=kernel.parts.backend,
        naming=kernel.parts.naming,
        cache=kernel.parts.cache,
        since=reached,
        data=False,
        twice=False,
    )
    repairs = Repairs(kernel, job)
    for finding in _watched(survey, job):
        if survey.directory != reached:
            repairs.flush()
            if repairs.wrote:  # what a power cut would take is not behind us
                kernel.parts.cache.flush()
                repairs.wrote = False
            reached = survey.directory
            jobs.set_position(reached)
        repairs.take_row(finding)
    repairs.flush()
    kernel.parts.cache.flush()
    jobs.set_position("")


def _watched(survey: Survey, job: Job) -> Iterable[Finding]:
    progress = job.record.progress
    progress.total = survey.total()

    def pulse() -> None:
        progress.done, progress.bytes = survey.files, survey.size
        job.pulse()

    survey.pulse = pulse
    for finding in survey.findings():
        job.count(finding.kind)
        yield finding
    progress.done, progress.bytes = survey.files, survey.size


class Repairs:
    """Does what a finding asks for, and counts it."""

    def __init__(self, kernel: Kernel, job: Job) -> None:
        self._kernel = kernel
        self._job = job
        self._rows: list[Attr] = []
        self.wrote = False
        """Whether rows were changed."""

    def take(self, finding: Finding) -> str:
        """Repair what one finding tells of; what was done."""
        if finding.kind not in _BROKEN:
            return self.take_row(finding)
        if not finding.sure:
            return ""
        kernel, key = self._kernel, finding.key
        if not kernel.parts.backend.is_sole_writer():
            try:
                if kernel.parts.backend.age(key) < ORPHAN_AGE:
                    return "left: younger than an hour, and others write to this store"
            except NotFound:
                return ""
        kernel.parts.backend.quarantine(key)
        log.error("%s: %s Moved to quarantine.", key, finding.detail)
        for file_id in finding.rows:
            kernel.index.repair_entry(file_id, key)
        return self._did("quarantined")

    def take_row(self, finding: Finding) -> str:
        """Make rows say what the sidecar says; the tree is left alone."""
        attr, key = finding.attr, finding.key
        if finding.kind in (Kind.MISSING, Kind.ORPHAN_DATA) and finding.rows:
            for file_id in finding.rows:
                self._kernel.index.repair_entry(file_id, key)
            return self._did("row removed")
        if finding.kind is not Kind.STALE or attr is None:
            return ""
        for file_id in finding.rows:
            if file_id != attr.file_id:
                self._kernel.index.repair_entry(file_id, key)
        if finding.ahead:
            # Within, a row that is missing for a moment proves nothing.
            with self._kernel.index.backlog.repairing():
                try:
                    self._kernel.index.repair_entry(attr.file_id, key, force=True)
                except Unavailable:
                    self._kernel.index.backlog.enqueue(attr.file_id, key, None)
                    raise
        else:
            if self._rows and self._rows[-1].storage_path != attr.storage_path:
                self.flush()  # what lies long may be deleted meanwhile
            self._rows.append(attr)
            if len(self._rows) >= BATCH:
                self.flush()
        return self._did("row written")

    def flush(self) -> None:
        """Write the rows that were gathered."""
        if self._rows:
            self._kernel.index.put_entries(
                self._rows, sole_writer=False
            )  # this process itself may be writing
            self._rows.clear()

    def _did(self, what: str) -> str:
        self.wrote = True
        self._job.repaired(what)
        return what
