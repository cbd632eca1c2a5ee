"""A file in and its bytes out, by the kernel itself."""

from __future__ import annotations

from typing import Any

from artstore.attr import Attr
from artstore.kernel import Kernel
from artstore.spi import SCOPES, Principal, Span

BY = Principal(id="42", name="ivanov", scopes=SCOPES)


def upload(
    kernel: Kernel, data: bytes = b"data", name: str = "a.txt", file_id: str | None = None, **fields: Any
) -> Attr:
    session = kernel.begin(BY, filename=name, file_id=file_id)
    session.write(data)
    return session.commit(**fields)[0]


def content(kernel: Kernel, file_id: str) -> bytes:
    download = kernel.download(file_id)
    try:
        return b"".join(download.pieces(Span(0, download.attr.size)))
    finally:
        download.close()
