"""The sections of the settings that no plugin brings: `[server]`, `[limits]`, `[log]`, `[plugins]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, Field

from artstore import limits
from artstore.limits import Size


def _split_list(value: object) -> object:
    """Return a text as the list that it names, with commas between: a variable can only be a text."""
    return [x.strip() for x in value.split(",") if x.strip()] if isinstance(value, str) else value


def _strip_slash(path: str) -> str:
    return path.rstrip("/")


_ROOT_PATH = r"^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?$"
_ORIGIN = r"^[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?$"  # as browsers write it, RFC 6454, 6.2


class Server(BaseModel, extra="forbid"):
    """`[server]`: where `artstore serve` listens, and with how many processes and threads."""

    adapter: str | None = Field(default=None, description="who speaks HTTP; the server knows which exist")
    host: str = "127.0.0.1"
    port: int = Field(default=8010, ge=1, le=65535)
    workers: int = Field(default=1, ge=1, le=256, description="processes")
    threads: int = Field(default=32, ge=1, le=1024, description="transfers at a time in one process")
    shutdown_timeout: float = Field(
        default=30, gt=0, le=86_400, description="seconds for transfers after SIGTERM"
    )
    root_path: Annotated[str, Field(pattern=_ROOT_PATH), AfterValidator(_strip_slash)] = Field(
        default="", description="the path below which a proxy shows the element, such as /store"
    )
    cors_origins: Annotated[list[Annotated[str, Field(pattern=_ORIGIN)]], BeforeValidator(_split_list)] = (
        Field(
            default=[],
            description="web pages of these origins may call the API, such as https://app.example.org",
        )
    )


class Limits(limits.Limits):
    """`[limits]`: of files and of requests. Sizes in bytes or as "5 GiB", times in seconds."""

    max_json_body: Size = Field(default=ByteSize(64 << 10), gt=0, description="of one JSON request")
    body_timeout: float = Field(default=30, gt=0, description="seconds over which a body must bring 1 KiB/s")


class Log(BaseModel, extra="forbid"):
    """`[log]`: lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = Field(default=True, description="a line a request")


class Plugins(BaseModel, extra="forbid"):
    """`[plugins]`: entry points, as `<distribution>:<name>`."""

    block: Annotated[list[str], BeforeValidator(_split_list)] = Field(default=[], description="switched off")
    strict: bool = Field(default=False, description="a broken plugin is fatal also when nobody chose it")
