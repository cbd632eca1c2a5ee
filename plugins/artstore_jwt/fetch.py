"""Fetches one small document by HTTP: bounded in size and time, and without a change of the scheme."""

from __future__ import annotations

import time
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

MAX_DOCUMENT = 1 << 20
"""Bytes of the document."""


class _SameScheme(HTTPRedirectHandler):
    """Follows a redirect unless it changes the scheme: https never becomes http or ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != req.type:
            raise HTTPError(req.full_url, code, "it redirects to another scheme", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, timeout: float) -> bytes:
    """Return the body at `url`. Raises `OSError` or `ValueError`, whose text says why there is none."""
    accept = "application/jwk-set+json, application/json"
    request = Request(url, headers={"Accept": accept, "User-Agent": "artstore"})  # noqa: S310 - see JwtSettings
    deadline = time.monotonic() + timeout
    body = bytearray()
    try:
        with build_opener(_SameScheme).open(request, timeout=timeout) as response:
            # A server that sends byte by byte never exceeds the time-out of the socket, so the whole has one too.
            while piece := response.read1(65536):
                body += piece
                if len(body) > MAX_DOCUMENT:
                    raise ValueError(f"{url} is larger than 1 MiB")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} took longer than {timeout:g} s")
            if response.length:
                raise ConnectionError(f"{url} was cut short")
    except HTTPError as e:
        e.close()
        raise ConnectionError(f"{url} answered {e.code} {e.reason}") from None
    except HTTPException as e:
        raise ConnectionError(f"{url} gave no valid answer ({type(e).__name__})") from None
    except OSError as e:
        raise ConnectionError(f"{url} cannot be fetched: {getattr(e, 'reason', e)}") from None
    return bytes(body)
