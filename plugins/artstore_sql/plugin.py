"""What this plugin offers."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_caches() -> list[Provider]:
    return [
        Provider(
            name="sql",
            target="artstore_sql.provider:Sql",
            summary="SQLite beside the element, or PostgreSQL for several nodes",
        )
    ]
