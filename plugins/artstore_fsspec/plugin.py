"""Offers the backend `fsspec`."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_backends() -> list[Provider]:
    return [
        Provider(
            name="fsspec",
            target="artstore_fsspec.backend:FsspecBackend",
            summary="Any fsspec URL: memory://, file://, sftp://, gcs://, abfs://",
            extra="fsspec",
        )
    ]
