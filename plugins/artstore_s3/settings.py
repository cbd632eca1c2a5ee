"""The settings `[backend.s3]`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator


class S3Settings(BaseModel, extra="forbid"):
    """`[backend.s3]`. Times are in seconds. Credentials that are not set are searched where the tools of AWS do."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")
    prefix: str = Field(default="", max_length=200, pattern=r"^[A-Za-z0-9._/-]*$")
    """The beginning of all names, so that one bucket can hold several stores."""
    endpoint_url: str | None = None
    """The address of a server that is not AWS."""
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    connect_timeout: float = Field(default=5, gt=0)
    read_timeout: float = Field(default=15, gt=0)
    """The longest pause within an answer."""
    deadline: float = Field(default=30, gt=0)
    """The time for one call with all its tries. Each MiB that it sends adds one second."""
    tombstone_retention: float = Field(default=86_400, gt=0)
    """The time after which a request of the past cannot arrive any more. Until then a deleted key stays taken, and an
    unfinished upload is kept."""
    presign: bool = False
    """Redirect downloads to the store, to an address that is valid for `presign_seconds`."""
    presign_seconds: int = Field(default=60, ge=1, le=3600)

    @field_validator("endpoint_url")
    @classmethod
    def _require_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("must look like https://host:port, without user and password")
        return url

    @field_validator("prefix")
    @classmethod
    def _normalise_prefix(cls, prefix: str) -> str:
        parts = [part for part in prefix.split("/") if part]
        if {".", "..", ".artstore"} & set(parts):
            raise ValueError("must not hold ., .. or .artstore as a part")
        return "".join(f"{part}/" for part in parts)

    @model_validator(mode="after")
    def _require_both_or_none(self) -> S3Settings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self
