"""A program of the fork server: `artstore` on the command line, with everything imported that `serve` needs."""

from __future__ import annotations

import importlib
import os
import sys
import time

AHEAD = """
granian.server.mp uvloop artstore_granian.serve artstore_granian.worker artstore_starlette.app artstore_falcon.app
artstore_local.backend artstore_naming.dated artstore_sql.sqlite.cache artstore_sql.postgres.cache
artstore_sql.postgres.log artstore_jwt.auth artstore_s3.backend artstore_crypt.backend artstore_cli.main
"""


def prepare() -> None:
    for module in AHEAD.split():
        importlib.import_module(module)


def run(argv: list[str], environment: dict[str, str], cwd: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = argv
    sys.exit(importlib.import_module("artstore_cli.main").main(argv[1:]))
