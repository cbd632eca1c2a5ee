"""The settings under `[auth.jwt]`."""

from __future__ import annotations

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator


class JwtSettings(BaseModel, extra="forbid", frozen=True):
    """Without settings the element makes a key pair of its own in `<state>/keys`."""

    public_key_file: Path | None = Field(
        None, description="PEM: an RSA public key or a certificate; read again when it changes."
    )
    private_key_file: Path | None = Field(
        None,
        description="PEM: an RSA private key, for `artstore token`. With no public source, its own.",
    )
    jwks_url: str | None = Field(
        None, description="http(s) URL of a JWK set, such as an identity provider's."
    )
    jwks_file: Path | None = Field(None, description="A JWK set in a file; read again when it changes.")
    issuer: str | None = Field(None, min_length=1, description="What `iss` must be.")
    audience: str | None = Field(None, min_length=1, description="What `aud` must be or hold.")
    leeway: float = Field(
        5,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="Seconds the issuer's clock may be ahead of ours (`nbf`, `iat`). `exp` is exact.",
    )
    jwks_cache: float = Field(
        300, gt=0, allow_inf_nan=False, description="Seconds after which `jwks_url` is fetched again."
    )
    timeout: float = Field(
        5, gt=0, le=60, allow_inf_nan=False, description="Seconds that one fetch of `jwks_url` may take."
    )

    @field_validator("jwks_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http or https URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password")
        if any(c <= " " or c > "~" for c in url):
            raise ValueError("must be plain ASCII without spaces (percent-encode the rest)")
        return url

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [n for n in ("public_key_file", "jwks_url", "jwks_file") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are set: keep one source of public keys")
        return self
