"""Commands that show what an element keeps beside its store: the log, and the schema of its database."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict

from artstore.host.exit_codes import OK
from artstore.host.offline import migrate, open_log
from artstore_cli.invocation import existing_home


def wal(args: argparse.Namespace) -> int:
    """`artstore wal`: print the newest transactions of the log."""
    with closing(open_log(existing_home(args))) as log:
        transactions = log.transactions(status=args.status, limit=args.limit)
    if args.json:
        print(json.dumps([asdict(t) for t in transactions], indent=2))
        return OK
    table = [("STARTED", "OPERATION", "STATUS", "BY", "FILE", "ERROR")]
    table += [(t.started, t.operation, t.status, t.by, t.file_id or "-", t.error or "") for t in transactions]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return OK


def db(args: argparse.Namespace) -> int:
    """`artstore db`: print the revision of the schema of the cache, after moving it if asked to."""
    targets = {"current": None, "upgrade": args.revision or "head", "downgrade": args.revision or "-1"}
    revision = migrate(existing_home(args), targets[args.what])
    print(json.dumps({"revision": revision}) if args.json else revision or "nothing is there yet")
    return OK
