"""What the operator limits: sizes of files and of the store."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ByteSize, Field


def _check_size(value: object) -> object:
    # pydantic reads only how a text begins: it would make one byte of "1,5 GiB".
    if isinstance(value, str) and not re.fullmatch(r"\s*\d*\.?\d+\s*[A-Za-z]*\s*", value, re.ASCII):
        raise ValueError('must be a number of bytes, or a size like "5 GiB" or "1.5 TB"')
    return value


Size = Annotated[ByteSize, BeforeValidator(_check_size)]
"""A number of bytes, or a text like "5 GiB"."""


class Limits(BaseModel, extra="forbid"):
    """The limits that the kernel keeps, in bytes."""

    max_file_size: Size = Field(default=ByteSize(5 << 30), gt=0, description="of one file")
    capacity: Size | None = Field(default=None, description="of all files together")
    min_free: Size = Field(default=ByteSize(64 << 20), description="free space that uploads leave alone")
