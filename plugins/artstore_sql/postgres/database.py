"""A PostgreSQL that several nodes share: its connections, its deadlines, and how its errors are translated."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from artstore.errors import ArtstoreError, ConfigError, Unavailable
from artstore_sql.postgres.errors import Refused, translate

log = logging.getLogger("artstore.sql")

PATIENCE = 0.3
"""Seconds that a call waits for the result of the one call that tries an unresponsive server again."""

MEMORY = "16MB"
"""For the rows that a search has found by its indexes: where it is too little, all of them are compared again."""

T = TypeVar("T")


class Timed(psycopg.Connection[Any]):
    """A connection that waits for no answer past `deadline`: when the server hangs, so do its own time-outs."""

    deadline = float("inf")

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        return super().wait(self._until(gen), *args, **options)

    def _until(self, gen: Any) -> Any:
        try:
            state = next(gen)
            while True:
                ready = yield state
                if time.monotonic() > self.deadline:
                    self.pgconn.finish()  # an answer that comes later must not be read as that of another statement
                    raise psycopg.OperationalError("the server did not answer in time")
                state = gen.send(ready)
        except StopIteration as e:
            return e.value


class Postgres:
    """At most `size` connections of one process. They are made when they are needed, since a server may fork before.

    A call that finds its connection cut is tried once more. While the server does not answer, one call at a time waits
    for it, and the others fail at once.
    """

    def __init__(self, url: SecretStr, timeout: float, *, place: str, size: int) -> None:
        self._url = parse_url(url, place)
        self._place = place
        self._timeout = timeout
        self._silent = False
        self._trying = threading.Lock()
        milliseconds = ceil(timeout * 1000)
        self._conninfo = _conninfo(self._url, timeout, place)
        self._options: dict[str, int | str] = {
            "statement_timeout": milliseconds,
            "lock_timeout": milliseconds,
            "idle_in_transaction_session_timeout": 2 * milliseconds,
            "work_mem": MEMORY,
        }
        self._engine = create_engine(
            "postgresql+psycopg://", creator=self._connect, poolclass=QueuePool, pool_size=size, max_overflow=0,
            pool_timeout=timeout, pool_use_lifo=True, use_native_hstore=False,
        )  # fmt: skip
        event.listen(self._engine, "checkout", _recheck)
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def where(self) -> str:
        """Return host and port, without secrets."""
        return f"{self._url.host or 'the local socket'}:{self._url.port or 5432}"

    def read(self, ask: Callable[[Connection], T], *, strict: bool = False) -> T:
        """What `ask` returns; each of its statements is committed by itself. It may be called twice.

        Raises `Unavailable`; with `strict` `ConfigError` for what only an operator can mend.
        """
        return self._call(lambda deadline: self._execute_on(self._reading, ask, deadline), None, strict)

    def write(
        self,
        change: Callable[[Connection], T],
        *,
        durable: bool = True,
        timeout: float | None = None,
        strict: bool = False,
    ) -> T:
        """Commit what `change` does; it may be called twice. Without `durable` a crash of the server may take it back.

        Raises `Unavailable`: then it may have happened all the same when the answer to the commit was lost.
        """

        def changing(connection: Connection) -> T:
            with connection.begin():
                if not durable:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                return change(connection)

        return self._call(
            lambda deadline: self._execute_on(self._engine, changing, deadline), timeout, strict
        )

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection for the caller alone; each statement is committed by itself."""
        with self.translate_errors():
            connection = self._reading.connect()
        try:
            yield connection
        finally:
            with suppress(SQLAlchemyError, psycopg.Error):
                if connection.connection.closed:  # no answer came in time: nothing on it can be rolled back
                    connection.invalidate()
                connection.close()

    def ask(self, connection: Connection, statement: str, *values: object) -> Any:
        """Return the first value of a statement on a connection that is held. Any thread may call it."""
        with self.translate_errors():
            driver: Any = connection.connection.driver_connection
            driver.deadline = time.monotonic() + self._timeout
            return driver.execute(statement, values).fetchone()[0]

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()

    # --- calls ---

    def _call(self, once: Callable[[float], T], timeout: float | None, strict: bool) -> T:
        try:
            return self._call_in_turn(once, timeout)
        except ConfigError as e:
            if strict:
                raise
            raise Unavailable(e.detail) from e

    def _call_in_turn(self, once: Callable[[float], T], timeout: float | None) -> T:
        deadline = time.monotonic() + (timeout or self._timeout)
        if self._silent:
            if not self._trying.acquire(timeout=PATIENCE):
                raise Unavailable(f"The database at {self.where} does not answer.")
            try:
                return self._try_twice(once, deadline)
            finally:
                self._trying.release()
        return self._try_twice(once, deadline)

    def _try_twice(self, once: Callable[[float], T], deadline: float) -> T:
        try:
            with self.translate_errors():
                try:
                    result = once(deadline)
                except DBAPIError as e:
                    if not e.connection_invalidated or time.monotonic() > deadline:
                        raise
                    result = once(deadline)  # the connection was closed: by a restart, or by an administrator
        except Unavailable as e:
            self._silent = not isinstance(e, Refused)
            raise
        self._silent = False
        return result

    def _execute_on(self, engine: Any, ask: Callable[[Connection], T], deadline: float) -> T:
        with engine.connect() as connection:
            connection.connection.driver_connection.deadline = deadline
            return ask(connection)

    def _connect(self) -> psycopg.Connection[Any]:
        connection = Timed.connect(self._conninfo, autocommit=True)
        try:
            connection.deadline = time.monotonic() + self._timeout
            settings = ", ".join("set_config(%s, %s, false)" for _ in self._options)
            values = [str(v) for pair in self._options.items() for v in pair]
            connection.execute(f"SELECT {settings}".encode(), values)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    # --- what errors mean ---

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise the errors of psycopg and SQLAlchemy as errors of artstore, without the url and its password."""
        try:
            yield
        except DBAPIError as e:
            raise self._translate(e.orig) from e
        except psycopg.Error as e:
            raise self._translate(e) from e
        except PoolTimeout as e:
            raise Unavailable(
                f"The database did not answer within {self._timeout:g} s: too many calls wait for it."
            ) from e
        except (SQLAlchemyError, OSError, UnicodeError) as e:
            raise Unavailable(f"The database at {self.where} does not answer: {e}.") from e

    def _translate(self, error: BaseException | None) -> ArtstoreError:
        return translate(error, self._url, where=self.where, place=self._place, timeout=self._timeout)


def parse_url(url: SecretStr, place: str) -> URL:
    """Return the url. Raises `ConfigError` without the url in it."""
    try:
        found = make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        raise ConfigError(
            "This is no database url.",
            place=place,
            cure="Write postgresql://user:password@host:5432/database.",
        ) from None
    if found.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(
            f"{found.get_backend_name()} is not understood here.",
            place=place,
            cure="Write postgresql://user:password@host:5432/database.",
        )
    if not found.database:
        raise ConfigError(
            "The url names no database.", place=place, cure="Write postgresql://user:password@host/database."
        )
    return found


def _conninfo(url: URL, timeout: float, place: str) -> str:
    given: dict[str, Any] = {
        "host": url.host, "port": url.port, "user": url.username, "password": url.password,
        "dbname": url.database, "connect_timeout": max(2, ceil(timeout)), "application_name": "artstore",
        "tcp_user_timeout": ceil(timeout * 1000),
    }  # fmt: skip
    try:
        return make_conninfo("", **({k: v for k, v in given.items() if v is not None} | dict(url.query)))
    except psycopg.ProgrammingError as e:
        raise ConfigError(
            f"The url is not understood: {str(e).strip()}.",
            place=place,
            cure="What follows the ? goes to libpq, such as sslmode=verify-full.",
        ) from None


def _recheck(dbapi: Any, _entry: Any, _proxy: Any) -> None:
    # An idle connection is readable only when the server closed it. The system answers this, not the server.
    poll = select.poll()
    poll.register(dbapi.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError("the connection was cut")
