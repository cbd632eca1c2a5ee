"""Offers the auth `jwt`."""

from __future__ import annotations

from artstore.hookspecs import Provider, hookimpl


@hookimpl
def artstore_auths() -> list[Provider]:
    return [
        Provider(
            name="jwt",
            target="artstore_jwt.auth:JwtAuth",
            summary="Bearer JWT (RS256, ES256, EdDSA): a key pair of its own, a PEM file, or a JWKS file or URL",
        )
    ]
