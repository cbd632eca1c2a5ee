"""What SQLAlchemy makes of a statement, kept for all caches of a process: tests open thousands, an element one."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Engine

import artstore_sql.postgres.cache
import artstore_sql.sqlite.cache


class _Compiled(dict[Any, Any]):
    """By the kind of the database: each engine has a dialect of its own, and they do not differ."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


def share() -> None:
    """From here on, all that this process opens, and its children."""
    kept, made = _Compiled(), Engine.__init__

    def begin(self: Engine, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        self._compiled_cache = kept

    Engine.__init__ = begin  # type: ignore[method-assign]
    for module in (artstore_sql.sqlite.cache, artstore_sql.postgres.cache):
        module.Tables = cache(module.Tables)  # type: ignore[attr-defined]
