"""The commands that work on a whole store: `verify`, `rebuild`, `recover`, `rekey`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any

from artstore.errors import ArtstoreError, ConfigError, Unavailable
from artstore.host.boot import Node, open_node
from artstore.host.exit_codes import DAMAGE, OK, UNREACHABLE
from artstore.host.offline import open_backend, open_survey
from artstore.maintenance import repair
from artstore.maintenance.jobs import Job, Progress, Record
from artstore.maintenance.verify import HEALTHY, Finding, Kind, Survey
from artstore.spi import SupportsRekey
from artstore_cli.invocation import existing_home, user_name
from artstore_cli.progress import Bar


def verify(args: argparse.Namespace) -> int:
    """`artstore verify`: compare files, sidecars and cache, and change nothing."""
    bar = Bar(sys.stderr)
    counts = dict.fromkeys(Kind, 0)
    total: int | None = None

    def draw(survey: Survey) -> None:
        bar.draw(survey.files, total, survey.size)

    configuration = existing_home(args)
    with open_survey(configuration, since=args.since, digests=args.digests, on_progress=draw) as survey:
        started, total = time.monotonic(), survey.total()
        report = _JsonReport() if args.json else _TextReport()
        try:
            for finding in survey.findings():
                counts[finding.kind] += 1
                if finding.kind is not Kind.OK:
                    bar.clear()
                    report.add(finding)
        except ArtstoreError as e:
            report.abort(e)
            raise
        finally:
            bar.clear()
        sound = all(not n for kind, n in counts.items() if kind not in HEALTHY)
        report.end(counts, survey, time.monotonic() - started, sound=sound)
    if not sound:
        return DAMAGE
    return UNREACHABLE if survey.unreachable else OK


class _JsonReport:
    """One JSON object, printed while it is found: a list of a million findings needs no memory."""

    _OPENING = '{"findings": ['

    def __init__(self) -> None:
        self._separator = self._OPENING

    def add(self, finding: Finding) -> None:
        shown = {"kind": finding.kind.value, "key": finding.key, "detail": finding.detail}
        print(self._separator + json.dumps(shown), end="")
        self._separator = ",\n "

    def abort(self, error: ArtstoreError) -> None:
        self._close({"error": error.detail})

    def end(self, counts: dict[Kind, int], survey: Survey, seconds: float, *, sound: bool) -> None:
        self._close(
            {
                "counts": {kind.value: n for kind, n in counts.items()},
                "sound": sound,
                "cache": survey.cache_state,
                "under_way": _count_uploads(survey),
                "bytes": survey.size,
                "seconds": round(seconds, 3),
            }
        )

    def _close(self, rest: dict[str, Any]) -> None:
        opening = self._OPENING if self._separator == self._OPENING else ""
        print(f"{opening}], {json.dumps(rest)[1:]}")


class _TextReport:
    """A line for each finding, and a summary."""

    def add(self, finding: Finding) -> None:
        detail = f"  {finding.detail}" if finding.detail else ""
        print(f"{finding.kind.value:<14}  {_printable(finding.key)}{_printable(detail)}")

    def abort(self, error: ArtstoreError) -> None:
        """Do nothing: the findings are printed, and `main` prints the error."""

    def end(self, counts: dict[Kind, int], survey: Survey, seconds: float, *, sound: bool) -> None:
        found = ", ".join(f"{n:,} {kind.value}" for kind, n in counts.items() if n) or "nothing there"
        rate = f"{survey.files / max(seconds, 0.001):,.0f} names/s"
        if survey.size:
            rate += f", {survey.size / max(seconds, 0.001) / (1 << 20):,.0f} MiB/s"
        print(f"{'Sound' if sound else 'DAMAGE'}: {found} ({seconds:.1f} s, {rate}).")
        if survey.cache_state != "compared":
            print(f"The cache was not compared: {survey.cache_state}.")
        uploads = _count_uploads(survey)
        if uploads:
            print(f"{uploads:,} uploads are under way, or wait for the next start (`artstore recover`).")


def _count_uploads(survey: Survey) -> int:
    """Return the number of uploads that are in progress or were left by a dead process."""
    return len(set(survey.backend.in_progress()))


def _printable(text: str) -> str:
    """Return a name that can neither forge a line nor confuse a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def rebuild(args: argparse.Namespace) -> int:
    """`artstore rebuild`: write the cache again from the sidecars, while it is in use."""
    configuration = existing_home(args)
    node = open_node(configuration)
    try:
        record = _rebuild(node)
    except (
        Unavailable
    ):  # a cache that turned out to be broken is replaced by a new one when it is opened again
        record = _rebuild(open_node(configuration))
    if args.json:
        print(record.model_dump_json())
        return OK
    found = ", ".join(f"{n:,} {kind}" for kind, n in record.found.items()) or "nothing there"
    done = ", ".join(f"{n:,} {what}" for what, n in record.repaired.items()) or "nothing to do"
    print(f"Rebuilt: {done}. Found: {found} ({record.progress.rate:,.0f} names/s).")
    return OK


def _rebuild(node: Node) -> Record:
    """Run the job and close the node."""
    bar = Bar(sys.stderr)

    def work(job: Job) -> None:
        repair.rebuild(node.kernel.parts, node.kernel.index, job, node.jobs)

    def draw(progress: Progress) -> None:
        bar.draw(progress.done, progress.total)

    try:
        return node.jobs.run("rebuild", by=user_name(), digests=False, work=work, on_progress=draw)
    finally:
        bar.clear()
        node.close()


def recover(args: argparse.Namespace) -> int:
    """`artstore recover`: recover what a crash left, and print what was done."""
    node = open_node(existing_home(args))
    node.close()
    print(node.report.model_dump_json() if args.json else f"Recovered: {node.report}.")
    return OK


def rekey(args: argparse.Namespace) -> int:
    """`artstore rekey`: bring every encrypted file under the present master key."""
    backend = open_backend(existing_home(args))
    try:
        if not isinstance(backend, SupportsRekey):
            raise ConfigError("This backend encrypts nothing.", place="backend", cure="See docs/crypt.md.")
        counts = {"renewed": 0, "present": 0, "plain": 0, "damaged": 0} | Counter(backend.rekey())
    finally:
        backend.close()
    shown = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    print(json.dumps(counts) if args.json else f"Files: {shown}.")
    return DAMAGE if counts["damaged"] else OK
