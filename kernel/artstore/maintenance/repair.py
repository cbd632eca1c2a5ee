"""Repairs: index entries are written again from their sidecars, broken pairs move to quarantine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from artstore.attr import Attr
from artstore.errors import NotFound, Unavailable
from artstore.index import BATCH, Index
from artstore.maintenance.jobs import Job, Jobs
from artstore.maintenance.verify import Finding, Kind, Survey
from artstore.parts import Parts
from artstore.recovery import ORPHAN_AGE

log = logging.getLogger("artstore.repairs")

_BROKEN = (Kind.DAMAGED, Kind.ORPHAN_DATA, Kind.ORPHAN_SIDECAR)


def reconcile(parts: Parts, index: Index, job: Job, *, repair: bool, digests: bool) -> None:
    """Compare tree, sidecars and index, and with `repair` repair what can be repaired.

    Raises `Unavailable`, `Interrupted`.
    """
    survey = Survey(
        backend=parts.backend,
        naming=parts.naming,
        cache=parts.cache,
        log=parts.log,
        digests=digests,
        on_progress=job.show_progress,
    )
    repairs = Repairs(parts, index, job)
    for finding in _counted_findings(survey, job):
        done = repairs.repair(finding) if repair else ""
        if finding.kind is not Kind.OK:
            job.add_finding(finding.kind, finding.key, finding.detail, done)
    repairs.flush()
    if repair:
        parts.cache.flush()


def rebuild(parts: Parts, index: Index, job: Job, jobs: Jobs) -> None:
    """Write the index again from the sidecars, directory by directory, while it is read and written.

    A rebuild that was interrupted is continued where it stopped. Raises `Unavailable`, `Interrupted`.

    No correct entry is missing meanwhile, and no entry becomes older than the one that an upload or an update writes:
    every step reads the sidecar again under the lock of its file. One check of each name is therefore enough here.
    """
    reached = jobs.position()
    if reached:
        job.count_repair("continued")
    survey = Survey(
        backend=parts.backend,
        naming=parts.naming,
        cache=parts.cache,
        since=reached,
        data=False,
        recheck=False,
        on_progress=job.show_progress,
    )
    repairs = Repairs(parts, index, job)
    for finding in _counted_findings(survey, job):
        if survey.directory != reached:
            repairs.flush()
            if repairs.changed:  # the position may only pass entries that survive a power cut
                parts.cache.flush()
                repairs.changed = False
            reached = survey.directory
            jobs.set_position(reached)
        repairs.repair_entries(finding)
    repairs.flush()
    parts.cache.flush()
    jobs.set_position("")


def _counted_findings(survey: Survey, job: Job) -> Iterator[Finding]:
    """Yield the findings, and count them in the record of the job."""
    job.record.progress.total = survey.total()
    for finding in survey.findings():
        job.count_finding(finding.kind)
        yield finding
    job.set_progress(survey)


class Repairs:
    """Repairs what findings show, and counts it in the record of the job."""

    def __init__(self, parts: Parts, index: Index, job: Job) -> None:
        self._backend = parts.backend
        self._index = index
        self._job = job
        self._to_write: list[Attr] = []
        self.changed = False
        """Whether index entries were changed."""

    def repair(self, finding: Finding) -> str:
        """Repair one finding. Returns what was done, in words, or nothing."""
        if finding.kind not in _BROKEN:
            return self.repair_entries(finding)
        if not finding.sure:
            return ""
        key = finding.key
        if not self._backend.is_sole_writer():
            try:
                if self._backend.age(key) < ORPHAN_AGE:
                    return "left: younger than an hour, and others write to this store"
            except NotFound:
                return ""
        self._backend.quarantine(key)
        log.error("%s: %s Moved to quarantine.", key, finding.detail)
        for file_id in finding.entry_ids:
            self._index.repair_entry(file_id, key)
        return self._record("quarantined")

    def repair_entries(self, finding: Finding) -> str:
        """Bring index entries to what the sidecar says, and leave the store alone. Returns what was done."""
        attr, key = finding.attr, finding.key
        if finding.kind in (Kind.MISSING, Kind.ORPHAN_DATA) and finding.entry_ids:
            for file_id in finding.entry_ids:
                self._index.repair_entry(file_id, key)
            return self._record("index entry removed")
        if finding.kind is not Kind.STALE or attr is None:
            return ""
        for file_id in finding.entry_ids:
            if file_id != attr.file_id:
                self._index.repair_entry(file_id, key)
        if finding.ahead:
            self._replace_newer_entry(attr)
        else:
            self._write_later(attr)
        return self._record("index entry written")

    def _replace_newer_entry(self, attr: Attr) -> None:
        # The entry is removed before it is written with the lower revision. No process may conclude in between that
        # there is no such file.
        with self._index.backlog.repairing():
            try:
                self._index.repair_entry(attr.file_id, attr.key, force=True)
            except Unavailable:
                self._index.backlog.enqueue(attr.file_id, attr.key, None)
                raise

    def _write_later(self, attr: Attr) -> None:
        """Gather the entries of one directory, and write them together."""
        if self._to_write and self._to_write[-1].storage_path != attr.storage_path:
            self.flush()  # the longer a sidecar was read ago, the likelier its file was deleted since
        self._to_write.append(attr)
        if len(self._to_write) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the entries that were gathered. Raises `Unavailable`."""
        if self._to_write:
            # Other threads of this process may be changing these files too.
            self._index.put_entries(self._to_write, sole_writer=False)
            self._to_write.clear()

    def _record(self, done: str) -> str:
        self.changed = True
        self._job.count_repair(done)
        return done
