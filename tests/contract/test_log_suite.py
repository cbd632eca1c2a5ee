"""The suite for logs, held to the logs of this project."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from artstore.spi import Log
from artstore.testing import LogSuite, SharedLogSuite, make_context
from artstore_sql.postgres.log import LogSettings, SqlLog
from artstore_wal.log import FileLog
from support.postgres import Postgres
from support.stores import opening

PREFIXES = itertools.count()


class TestFileLog(LogSuite):
    segment_size = FileLog.segment_size

    @pytest.fixture
    def open_log(self, tmp_path: Path) -> Iterator[Callable[[], Log]]:
        def make() -> FileLog:
            log = FileLog(FileLog.Settings(), make_context(tmp_path))
            log.segment_size = self.segment_size
            return log

        with opening(make) as open_it:
            yield open_it


class TestFileLogInSmallSegments(TestFileLog):
    segment_size = 300


class TestSqlLog(SharedLogSuite):
    @pytest.fixture
    def open_log(self, tmp_path: Path, postgres: Postgres) -> Iterator[Callable[[], Log]]:
        prefix = f"log_suite_{next(PREFIXES):02}_"

        def make() -> SqlLog:
            settings = LogSettings(url=SecretStr(postgres.url()), table_prefix=prefix, lease=3600, timeout=30)
            return SqlLog(settings, make_context(tmp_path))

        with opening(make) as open_it:
            yield open_it
