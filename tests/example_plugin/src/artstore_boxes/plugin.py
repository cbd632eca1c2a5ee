"""The providers of this distribution. This module imports nothing that their names do not need."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_backends() -> list[Provider]:
    return [
        Provider(
            name="boxes", target="artstore_boxes.backend:BoxesBackend", summary="A directory for each file"
        )
    ]


@hookimpl
def artstore_auths() -> list[Provider]:
    return [
        Provider(
            name="keys", target="artstore_boxes.auth:KeysAuth", summary="API keys, their hashes in a file"
        )
    ]
