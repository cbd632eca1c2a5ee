"""The settings of the cache, for both databases."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

_PREFIX = re.compile(r"(?:[a-z][a-z0-9_]{0,39})?")


def _valid_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be a-z, 0-9 and _ only, begin with a letter, and have at most 40 characters")
    return value


Prefix = Annotated[str, AfterValidator(_valid_prefix)]
"""What the names of all tables of one element begin with."""


class SqlSettings(BaseModel, extra="forbid"):
    """`[cache.sql]`: the database that holds the entries."""

    url: SecretStr | None = None
    """`sqlite:///` and a path, relative to the element's home; by default `cache.db` in its state."""
    table_prefix: Prefix = ""
    timeout: float = Field(default=5.0, gt=0, le=3600)
    """Seconds after which a call raises `Unavailable`."""
