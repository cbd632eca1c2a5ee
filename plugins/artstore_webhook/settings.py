"""What an operator may write under `[observer.webhook]`."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

_PREFIX = "whsec_"


class WebhookSettings(BaseModel, extra="forbid", frozen=True):
    """With this table the observer is on."""

    url: str = Field(description="http(s) URL that takes a POST for each change.")
    secret: SecretStr = Field(description="whsec_ and 24 to 64 bytes in base64; signs every event.")
    timeout: float = Field(
        10, gt=0, le=60, allow_inf_nan=False, description="Seconds that one POST may take."
    )
    give_up: float = Field(
        72, gt=0, allow_inf_nan=False, description="Hours after which an undelivered event is laid aside."
    )
    allow_private: bool = Field(False, description="Also addresses of this machine and of private networks.")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http or https URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password")
        if parts.fragment:
            raise ValueError("must not hold a fragment")
        if any(c <= " " or c > "~" for c in url):
            raise ValueError("must be plain ASCII without spaces (percent-encode the rest)")
        if parts.port == 0:
            raise ValueError("must not name port 0")
        return url

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        try:
            if text.startswith(_PREFIX) and 24 <= len(_decoded(text)) <= 64:
                return secret
        except ValueError:
            pass
        raise ValueError(
            "must be whsec_ and 24 to 64 bytes in base64; echo whsec_$(openssl rand -base64 32) makes one"
        )

    def key(self) -> bytes:
        """The bytes that sign."""
        return _decoded(self.secret.get_secret_value())


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
