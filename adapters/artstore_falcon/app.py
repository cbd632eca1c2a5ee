"""The WSGI app: `granian --interface wsgi --factory artstore_falcon.app:create_app`, or gunicorn's
`'artstore_falcon.app:create_app()'` with threads."""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import falcon

from artstore.errors import MalformedRequest
from artstore.host.boot import Node, open_default
from artstore.spi import PIECE
from artstore_http.app import App
from artstore_http.message import Request, Stream

LINGER_TIME = 2.0
"""Seconds for which the thread of the request waits for that."""


class Endpoint:
    """Translates between the WSGI environment and exchanges."""

    def __init__(self, app: App, *, lingering: int) -> None:
        self._app = app
        self._lingering = threading.BoundedSemaphore(lingering)

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_: object) -> None:
        request = _request(req.env)
        exchange = self._app.begin(request)
        pieces = _body(req.env, request)
        try:
            if exchange.response is None:
                for piece in pieces:
                    if exchange.feed(piece) is not None:
                        break
            response = exchange.finish()
        except MalformedRequest as e:
            response = exchange.fail(e)
        resp.status = response.status
        for name, value in response.headers:
            resp.set_header(name, value)
        if not isinstance(response.body, bytes):
            resp.stream = _Pieces(response.body)
        elif response.status >= 400 and request.small:
            resp.stream = self._linger(response.body, pieces)
        else:
            resp.data = response.body

    def _linger(self, answer: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the answer to a request that was refused, then read the rest of its body.

        The server closes a connection whose body is not read. A client that still sends would lose the answer. Each
        such read has a thread, so there are only some at a time.
        """
        yield answer
        if self._lingering.acquire(blocking=False):
            # A read cannot be interrupted: it may last until the client goes away, and this thread has other work.
            reading = threading.Thread(target=self._discard, args=(rest,), name="linger", daemon=True)
            reading.start()
            reading.join(LINGER_TIME)

    def _discard(self, rest: Iterable[bytes]) -> None:
        try:
            for _ in rest:
                continue
        except MalformedRequest:  # the client went away
            pass
        finally:
            self._lingering.release()


class _Pieces:
    """A stream as WSGI needs it: an iterable with `close`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream.pieces())

    def close(self) -> None:
        self._stream.close()


def _body(env: dict[str, Any], request: Request) -> Iterable[bytes]:
    """Yield the body in pieces. It may end early when the client went away; the exchange sees that by the length.

    Raises `MalformedRequest`.
    """
    stream, left = env["wsgi.input"], request.length
    if left is None and not (request.chunked and env.get("wsgi.input_terminated")):
        return
    while left is None or left > 0:
        try:
            piece = stream.read(PIECE if left is None else min(left, PIECE))
        except Exception as e:
            # The client went away, or its chunks are broken: then it can still read the answer. Each server raises
            # errors of its own for that; gunicorn's are no OSError.
            raise MalformedRequest("The body ended before it should.") from e
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def _request(env: dict[str, Any]) -> Request:
    # HTTP_CONTENT_LENGTH is a field that a client named Content_Length.
    own = {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"}
    headers = [
        (k[5:].replace("_", "-").lower(), v) for k, v in env.items() if k.startswith("HTTP_") and k not in own
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if env.get(name):
            headers.append((name.replace("_", "-").lower(), env[name]))
    root_path = env.get("SCRIPT_NAME", "").rstrip("/")
    return Request(
        method=env["REQUEST_METHOD"],
        path=_text(root_path + env.get("PATH_INFO", "")) or "/",
        root_path=_text(root_path),
        version=env.get("SERVER_PROTOCOL", "").partition("/")[2],
        query=env.get("QUERY_STRING", ""),
        headers=headers,
        client=env.get("REMOTE_ADDR") or "-",
        detects_cut_chunks=False,
    )


def _text(path: str) -> str:
    """Return a path of the WSGI environment, which holds the bytes of UTF-8 as Latin-1."""
    return path.encode("latin-1").decode("utf-8", "replace")


def create_app(node: Node | None = None) -> falcon.App:  # type: ignore[type-arg]
    """Return the app of `node`, or of the element that ARTSTORE_CONFIG, ARTSTORE_HOME and the like describe."""
    served = App(node or open_default(), "falcon")
    app = falcon.App(media_type="application/json")
    lingering = max(1, served.node.settings.server.threads // 2)
    app.add_sink(Endpoint(served, lingering=lingering), prefix=re.compile(""))  # also OPTIONS *
    atexit.register(served.close)
    return app
