"""What this plugin offers."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_caches() -> list[Provider]:
    return [
        Provider(
            name="sql",
            target="artstore_sql.cache:SqlCache",
            summary="SQLite beside the element: nothing to install, nothing to run",
        )
    ]
