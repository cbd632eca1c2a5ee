"""Offers the backend `s3`."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_backends() -> list[Provider]:
    return [
        Provider(
            name="s3",
            target="artstore_s3.backend:S3Backend",
            summary="S3 and compatibles, by s3fs",
            extra="s3",
        )
    ]
