"""The log in segment files, offered under the name `files`."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_logs() -> list[Provider]:
    return [
        Provider(
            name="files",
            target="artstore_wal.log:FileLog",
            summary="Intents in segment files beside the element",
        )
    ]
