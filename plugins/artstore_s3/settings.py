"""What an operator may set: `[backend.s3]`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator


class S3Settings(BaseModel, extra="forbid"):
    """`[backend.s3]`: times in seconds. Credentials that are not set are looked for where AWS tools look."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")
    prefix: str = Field(default="", max_length=200, pattern=r"^[A-Za-z0-9._/-]*$")
    """What all names begin with, so that several stores fit one bucket."""
    endpoint_url: str | None = None
    """Of a server that is not AWS."""
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    connect_timeout: float = Field(default=5, gt=0)
    read_timeout: float = Field(default=15, gt=0)
    """Between two bytes of an answer."""
    deadline: float = Field(default=30, gt=0)
    """Of one call with all its tries; one more for each MiB it carries."""
    grace: float = Field(default=86_400, gt=0)
    """After which no request of the past can come any more, and no upload is still on its way."""
    presign: bool = False
    """Send whoever downloads to the store, by an address that holds for a moment."""
    presign_seconds: int = Field(default=60, ge=1, le=3600)

    @field_validator("endpoint_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("must look like https://host:port, without user and password")
        return url

    @field_validator("prefix")
    @classmethod
    def _ends_in_a_slash(cls, prefix: str) -> str:
        parts = [part for part in prefix.split("/") if part]
        if {".", "..", ".artstore"} & set(parts):
            raise ValueError("must not hold ., .. or .artstore as a part")
        return "".join(f"{part}/" for part in parts)

    @model_validator(mode="after")
    def _goes_in_pairs(self) -> S3Settings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self
