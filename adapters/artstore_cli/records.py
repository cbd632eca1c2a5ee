"""Commands that look into what an element keeps beside its store: the log, and the schema of its database."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict

from artstore.host.boot import migrate, open_log
from artstore_cli.main import OK, _standing


def wal(args: argparse.Namespace) -> int:
    """`artstore wal`"""
    with closing(open_log(_standing(args))) as log:
        found = log.transactions(status=args.status, limit=args.limit)
    if args.json:
        print(json.dumps([asdict(t) for t in found], indent=2))
        return OK
    table = [("STARTED", "OPERATION", "STATUS", "BY", "FILE", "ERROR")]
    table += [(t.started, t.operation, t.status, t.by, t.file_id or "-", t.error or "") for t in found]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return OK


def db(args: argparse.Namespace) -> int:
    """`artstore db`"""
    targets = {"current": None, "upgrade": args.revision or "head", "downgrade": args.revision or "-1"}
    there = migrate(_standing(args), targets[args.what])
    print(json.dumps({"revision": there}) if args.json else there or "nothing is there yet")
    return OK
