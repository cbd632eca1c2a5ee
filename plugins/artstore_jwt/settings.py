"""The settings under `[auth.jwt]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator

from artstore.spi import TOKEN_ROLES
from artstore_jwt.rights import Rights, claim_path


class JwtSettings(BaseModel, extra="forbid", frozen=True):
    """Without settings the element makes a key pair of its own in `<state>/keys`."""

    public_key_file: Path | None = Field(
        None, description="PEM: public keys or certificates; read again when it changes."
    )
    private_key_file: Path | None = Field(
        None,
        description="PEM: a private key, for `artstore token`. With no public source, its own.",
    )
    jwks_url: str | None = Field(
        None, description="http(s) URL of a JWK set, such as an identity provider's."
    )
    jwks_file: Path | None = Field(None, description="A JWK set in a file; read again when it changes.")
    issuer: str | None = Field(None, min_length=1, description="What `iss` must be.")
    audience: str | None = Field(None, min_length=1, description="What `aud` must be or hold.")
    role_claims: tuple[str, ...] = Field(
        ("role", "roles"),
        max_length=32,
        description="Claims that hold roles: names, paths with dots (`realm_access.roles`), URLs.",
    )
    scope_claims: tuple[str, ...] = Field(
        ("scope", "scopes"), max_length=32, description="Claims that hold scopes; written like role_claims."
    )
    role_map: dict[str, tuple[str, ...]] = Field(
        {}, description="Names of roles of the issuer, and the roles that they mean here (one, or a list)."
    )
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

    @field_validator("role_claims", "scope_claims", mode="before")
    @classmethod
    def _one_or_list(cls, value: Any) -> Any:
        # The environment holds texts: a name, or a list in JSON.
        if isinstance(value, str):
            return _from_json(value) if value.lstrip().startswith("[") else [value]
        return value

    @field_validator("role_claims", "scope_claims")
    @classmethod
    def _are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            claim_path(text)
        return value

    @field_validator("role_map", mode="before")
    @classmethod
    def _one_or_several_roles(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = _from_json(value)
        if isinstance(value, dict):
            return {name: [roles] if isinstance(roles, str) else roles for name, roles in value.items()}
        return value

    @field_validator("role_map")
    @classmethod
    def _are_ours(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, roles in value.items():
            for role in roles:
                if role not in TOKEN_ROLES:
                    raise ValueError(
                        f"'{name}' means '{role}', but the roles here are {', '.join(TOKEN_ROLES)}"
                    )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [n for n in ("public_key_file", "jwks_url", "jwks_file") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are set: keep one source of public keys")
        return self

    @property
    def rights(self) -> Rights:
        """How scopes are read out of the claims of a token."""
        return Rights(
            tuple(map(claim_path, self.role_claims)), tuple(map(claim_path, self.scope_claims)), self.role_map
        )


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("must be JSON when it is set by the environment") from None
