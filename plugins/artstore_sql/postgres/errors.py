"""What the errors of PostgreSQL mean to an operator and to a caller. No message holds a url, and so a password."""

from __future__ import annotations

import psycopg
from psycopg import errors
from sqlalchemy.engine import URL

from artstore.errors import ArtstoreError, ConfigError, Unavailable


class Refused(Unavailable):
    """The server answers; it refuses this statement."""


class Dropped(Refused):
    """The tables were dropped or changed."""


class Mistaken(ConfigError):
    """The server answers, and will go on to refuse us until the operator changes something."""


# What no later try will mend.
_WRONG: dict[type[psycopg.Error], tuple[str, str]] = {
    errors.InvalidCatalogName: ("There is no database '{database}' at {where}.", "CREATE DATABASE {database};"),
    errors.InvalidPassword: ("{where} refuses the password of '{user}'.", "Mend the password in the url."),
    errors.InvalidAuthorizationSpecification: (
        "{where} does not let '{user}' in.", "Mend the url, or let the user in (pg_hba.conf)."
    ),
    errors.InsufficientPrivilege: (
        "'{user}' may not do this in database '{database}' at {where}.",
        "GRANT CREATE, USAGE ON SCHEMA public TO {user};",
    ),
}  # fmt: skip
_TAKEN = (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction)
_UNKNOWN_HOST = ("could not translate host name", "failed to resolve host", "Name or service not known")


def translate(
    error: BaseException | None, url: URL, *, where: str, place: str, timeout: float
) -> ArtstoreError:
    """Return the error of artstore for an error of psycopg."""
    shown = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    names = {"where": where, "user": url.username, "database": url.database}
    for kind, (detail, cure) in _WRONG.items():
        # Before there is a session libpq gives no code, only the server's sentence.
        if isinstance(error, kind) or (_lacks_code(error) and _is_message_of(kind, str(error))):
            return Mistaken(detail.format(**names), place=place, cure=cure.format(**names))
    if any(sign in str(error) for sign in _UNKNOWN_HOST):
        return Mistaken(f"There is no host '{url.host}'.", place=place, cure="Mend the host in the url.")
    if isinstance(error, _TAKEN):
        return Mistaken(
            f"Database '{url.database}' at {where} has tables that artstore did not make: {shown}.",
            place="cache.sql.table_prefix, wal.sql.table_prefix",
            cure="Name a prefix, or a database, of this element's own. Nothing was changed.",
        )
    if isinstance(error, errors.QueryCanceled | errors.LockNotAvailable | errors.DeadlockDetected):
        return Refused(f"The database did not answer within {timeout:g} s.")
    if isinstance(error, psycopg.OperationalError):
        return Unavailable(f"The database at {where} does not answer: {shown}.")
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return Dropped(f"A table or column of this element is missing: {shown}.")
    return Refused(f"The database refuses this: {shown}.")


def _lacks_code(error: BaseException | None) -> bool:
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _is_message_of(kind: type[psycopg.Error], text: str) -> bool:
    sentences: dict[type[psycopg.Error], tuple[str, ...]] = {
        errors.InvalidCatalogName: ('database "', "does not exist"),
        errors.InvalidPassword: ("password authentication failed",),
        errors.InvalidAuthorizationSpecification: ("pg_hba.conf",),
    }
    wanted = sentences.get(kind)
    return wanted is not None and all(part in text for part in wanted)
