"""The commands that look after a whole store."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artstore.errors import ArtstoreError
    from artstore.host.settings import Configuration
    from artstore.maintenance.jobs import Record
    from artstore.maintenance.verify import Finding, Survey

OK, DAMAGE, UNREACHABLE = 0, 6, 7


def verify(args: argparse.Namespace, configuration: Configuration) -> int:
    """Hold tree, sidecars and cache against each other; change nothing."""
    from artstore.errors import ArtstoreError
    from artstore.host.boot import surveying
    from artstore.maintenance.verify import SOUND, Kind
    from artstore_cli.progress import Bar

    bar = Bar(sys.stderr)
    counts = dict.fromkeys(Kind, 0)
    with surveying(configuration, since=args.since, digests=args.digests) as survey:
        began, total = time.monotonic(), survey.total()
        survey.pulse = lambda: bar.draw(survey.files, total, survey.size)
        report = _Json() if args.json else _Text()
        try:
            for finding in survey.findings():
                counts[finding.kind] += 1
                if finding.kind is not Kind.OK:
                    bar.clear()
                    report.tell(finding)
        except ArtstoreError as e:
            report.break_off(e)
            raise
        finally:
            bar.clear()
        sound = all(not n for kind, n in counts.items() if kind not in SOUND)
        report.end(counts, survey, time.monotonic() - began, sound=sound)
    if not sound:
        return DAMAGE
    return UNREACHABLE if survey.unreachable else OK


class _Json:
    """One object, written as it is found: a list of a million findings takes no memory."""

    def __init__(self) -> None:
        self._before = '{"findings": ['

    def tell(self, finding: Finding) -> None:
        told = {"kind": finding.kind.value, "key": finding.key, "detail": finding.detail}
        print(self._before + json.dumps(told), end="")
        self._before = ",\n "

    def break_off(self, error: ArtstoreError) -> None:
        self._close({"error": error.detail})

    def end(self, counts: dict[Any, int], survey: Survey, seconds: float, *, sound: bool) -> None:
        rest = {
            "counts": {kind.value: n for kind, n in counts.items()},
            "sound": sound,
            "cache": survey.compared,
            "under_way": len(set(survey.backend.in_progress())),
            "bytes": survey.size,
            "seconds": round(seconds, 3),
        }
        self._close(rest)

    def _close(self, rest: dict[str, Any]) -> None:
        begun = '{"findings": [' if self._before.startswith("{") else ""
        print(f"{begun}], {json.dumps(rest)[1:]}")


class _Text:
    """A line for each finding, and a summary."""

    def tell(self, finding: Finding) -> None:
        print(
            f"{finding.kind.value:<14}  {_shown(finding.key)}{_shown('  ' + finding.detail if finding.detail else '')}"
        )

    def break_off(self, error: ArtstoreError) -> None:
        """What was found stands there, and the error goes where errors go."""

    def end(self, counts: dict[Any, int], survey: Survey, seconds: float, *, sound: bool) -> None:
        found = ", ".join(f"{n:,} {kind.value}" for kind, n in counts.items() if n) or "nothing there"
        rate = f"{survey.files / max(seconds, 0.001):,.0f} names/s"
        if survey.size:
            rate += f", {survey.size / max(seconds, 0.001) / (1 << 20):,.0f} MiB/s"
        print(f"{'Sound' if sound else 'DAMAGE'}: {found} ({seconds:.1f} s, {rate}).")
        if survey.compared != "compared":
            print(f"The cache was not compared: {survey.compared}.")
        staged = len(set(survey.backend.in_progress()))
        if staged:
            print(f"{staged:,} uploads are under way, or wait for the next start (`artstore recover`).")


def _shown(text: str) -> str:
    """A name that cannot forge a line, nor break a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def rebuild(args: argparse.Namespace, configuration: Configuration) -> int:
    """The cache anew from the sidecars."""
    from artstore.errors import Unavailable
    from artstore.host.boot import open_node
    from artstore.maintenance.jobs import Job
    from artstore.maintenance.repair import rebuild
    from artstore_cli.progress import Bar

    bar = Bar(sys.stderr)
    for last in (False, True):
        node = open_node(configuration)

        def work(job: Job) -> None:
            job.drawn = lambda p: bar.draw(p.done, p.total)
            rebuild(node.kernel, job, node.jobs)  # noqa: B023 - done before the next turn

        try:
            record = node.jobs.run("rebuild", by=os.environ.get("USER") or "cli", digests=False, work=work)
        except Unavailable:
            if last:
                raise
            continue  # a cache that is broken gives way to a new one when it is opened again
        finally:
            bar.clear()
            node.close()
        break
    _tell(record, as_json=args.json)
    return OK


def _tell(record: Record, *, as_json: bool) -> None:
    if as_json:
        print(record.model_dump_json())
        return
    found = ", ".join(f"{n:,} {kind}" for kind, n in record.found.items()) or "nothing there"
    done = ", ".join(f"{n:,} {what}" for what, n in record.repaired.items()) or "nothing to do"
    print(f"Rebuilt: {done}. Found: {found} ({record.progress.rate:,.0f} names/s).")


def recover(args: argparse.Namespace, configuration: Configuration) -> int:
    """Settle what a crash left."""
    from artstore.host.boot import open_node

    node = open_node(configuration)
    node.close()
    print(node.report.model_dump_json() if args.json else f"Recovered: {node.report}.")
    return OK


def rekey(args: argparse.Namespace, configuration: Configuration) -> int:
    """Bring every encrypted file under the present master key."""
    from collections import Counter

    from artstore.errors import ConfigError
    from artstore.host.boot import open_backend
    from artstore.spi import SupportsRekey

    backend = open_backend(configuration)
    try:
        if not isinstance(backend, SupportsRekey):
            raise ConfigError("This backend encrypts nothing.", place="backend", cure="See docs/crypt.md.")
        counts = {"renewed": 0, "present": 0, "plain": 0, "damaged": 0} | Counter(backend.rekey())
    finally:
        backend.close()
    told = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    print(json.dumps(counts) if args.json else f"Files: {told}.")
    return DAMAGE if counts["damaged"] else OK
