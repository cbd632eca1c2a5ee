"""Offers the backend `crypt`."""

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_backends() -> list[Provider]:
    return [
        Provider(
            name="crypt",
            target="artstore_crypt.backend:CryptBackend",
            summary="Encrypts the data of another backend: AES-256-GCM, a key a file",
        )
    ]
