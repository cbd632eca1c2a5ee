"""The sections of the settings that are the kernel's and the server's own; those of the providers are their own."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, Field


def _listed(value: object) -> object:
    return [x.strip() for x in value.split(",") if x.strip()] if isinstance(value, str) else value


def _sized(value: object) -> object:
    # pydantic reads how a text begins: of "1,5 GiB" it makes one byte.
    if isinstance(value, str) and not re.fullmatch(r"\s*\d*\.?\d+\s*[A-Za-z]*\s*", value, re.ASCII):
        raise ValueError('must be a number of bytes, or a size like "5 GiB" or "1.5 TB"')
    return value


Size = Annotated[ByteSize, BeforeValidator(_sized)]


class Server(BaseModel, extra="forbid"):
    """`[server]`: who listens where."""

    adapter: Literal["starlette", "falcon"] = "starlette"
    host: str = "127.0.0.1"
    port: int = Field(default=8010, ge=1, le=65535)
    workers: int = Field(default=1, ge=1, le=256, description="processes")
    threads: int = Field(default=32, ge=1, le=1024, description="transfers at a time in one process")
    drain: float = Field(default=30, gt=0, le=86_400, description="seconds for transfers after SIGTERM")


class Limits(BaseModel, extra="forbid"):
    """`[limits]`: sizes in bytes or as "5 GiB", times in seconds."""

    max_file_size: Size = Field(default=ByteSize(5 << 30), gt=0, description="of one file")
    capacity: Size | None = Field(default=None, description="of all files together")
    min_free: Size = Field(default=ByteSize(64 << 20), description="free space that uploads leave alone")
    max_json_body: Size = Field(default=ByteSize(64 << 10), gt=0, description="of one JSON request")
    idle_body: float = Field(default=30, gt=0, description="seconds over which a body must bring 1 KiB/s")


class Log(BaseModel, extra="forbid"):
    """`[log]`: lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = Field(default=True, description="a line a request")


class Plugins(BaseModel, extra="forbid"):
    """`[plugins]`: entry points, as `<distribution>:<name>`."""

    block: Annotated[list[str], BeforeValidator(_listed)] = Field(default=[], description="switched off")
    strict: bool = Field(default=False, description="a broken plugin is fatal also when nobody chose it")
