"""Offers the backend `local`."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_backends() -> list[Provider]:
    return [
        Provider(
            name="local",
            target="artstore_local.backend:LocalBackend",
            summary="A directory on a local disk, durable by fsync",
        )
    ]
