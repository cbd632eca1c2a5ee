"""What this plugin offers."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_logs() -> list[Provider]:
    return [
        Provider(
            name="sql",
            target="artstore_sql.postgres.log:SqlLog",
            summary="Intents in PostgreSQL, for nodes that share a store",
            extra="postgres",
        )
    ]


@hookimpl
def artstore_caches() -> list[Provider]:
    return [
        Provider(
            name="sql",
            target="artstore_sql.provider:Sql",
            summary="SQLite beside the element, or PostgreSQL for several nodes",
        )
    ]
