"""The settings under `[observer.webhook]`."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator

_PREFIX = "whsec_"


class WebhookSettings(BaseModel, extra="forbid", frozen=True):
    """The observer is on when this table exists."""

    url: str = Field(description="http(s) URL that gets a POST for each change.")
    secret: SecretStr = Field(description="whsec_ and 24 to 64 bytes in base64; signs every event.")
    timeout: float = Field(
        10, gt=0, le=60, allow_inf_nan=False, description="Seconds that one POST may take."
    )
    retry_for_hours: float = Field(
        72,
        gt=0,
        allow_inf_nan=False,
        description="Hours after which an event that could not be delivered is given up.",
    )
    allow_private: bool = Field(False, description="Allow addresses of this machine and of private networks.")

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
            if text.startswith(_PREFIX) and 24 <= len(_decode(text)) <= 64:
                return secret
        except ValueError:
            pass
        raise ValueError(
            "must be whsec_ and 24 to 64 bytes in base64; echo whsec_$(openssl rand -base64 32) makes one"
        )

    def key(self) -> bytes:
        """Return the bytes of the secret, which sign every event."""
        return _decode(self.secret.get_secret_value())


def _decode(text: str) -> bytes:
    return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
